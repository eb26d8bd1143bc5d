#include "npy.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t tensor_bytes(const DLTensor* tensor) {
  size_t count = 1;
  for (int32_t i = 0; i < tensor->ndim; ++i) count *= (size_t)tensor->shape[i];
  return count * (((size_t)tensor->dtype.bits + 7) / 8);
}

/* The header of a .npy file (version 1 to 3): {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } */
static const char* read_npy_header(FILE* file, DLTensor* tensor) {
  unsigned char start[8];
  if (fread(start, 1, sizeof start, file) != sizeof start || memcmp(start, "\x93NUMPY", 6) != 0)
    return "is not a .npy file";
  unsigned char length_bytes[4] = {0, 0, 0, 0};
  const size_t length_size = start[6] == 1 ? 2 : 4;
  if (fread(length_bytes, 1, length_size, file) != length_size) return "is cut off";
  const size_t length =
      length_bytes[0] | (size_t)length_bytes[1] << 8 | (size_t)length_bytes[2] << 16 | (size_t)length_bytes[3] << 24;
  char header[4096];
  if (length >= sizeof header || fread(header, 1, length, file) != length) return "has a header that cannot be read";
  header[length] = '\0';
  if (strstr(header, "'fortran_order': False") == NULL) return "is not in C order";

  char descr[8];
  const char kind = tensor->dtype.code == kDLFloat  ? 'f'
                    : tensor->dtype.code == kDLInt  ? 'i'
                    : tensor->dtype.code == kDLUInt ? 'u'
                                                    : 'b';
  snprintf(descr, sizeof descr, "%c%d'", kind, tensor->dtype.bits / 8);
  if (strstr(header, descr) == NULL) return "has elements of another type than the model's input";

  const char* at = strstr(header, "'shape': (");
  if (at == NULL) return "has no shape";
  at += strlen("'shape': (");
  for (int32_t i = 0; i < tensor->ndim; ++i) {
    char* end;
    tensor->shape[i] = strtoll(at, &end, 10);
    if (end == at) return "has fewer dimensions than the model's input";
    at = end + strspn(end, ", ");
  }
  return *at == ')' ? NULL : "has more dimensions than the model's input";
}

const char* read_tensor(const char* path, DLTensor* tensor) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return "cannot be opened";
  const char* suffix = strrchr(path, '.');
  const char* problem = suffix != NULL && strcmp(suffix, ".npy") == 0 ? read_npy_header(file, tensor) : NULL;
  if (problem == NULL) {
    const size_t bytes = tensor_bytes(tensor);
    tensor->data = malloc(bytes + 1);
    if (tensor->data == NULL) {
      problem = "does not fit into memory";
    } else if (fread(tensor->data, 1, bytes, file) != bytes || fgetc(file) != EOF) {
      problem = "does not have the size of its shape";
    }
  }
  fclose(file);
  return problem;
}

const char* write_tensor(const char* path, const DLTensor* tensor) {
  FILE* file = fopen(path, "wb");
  if (file == NULL) return "cannot be written";
  const size_t bytes = tensor_bytes(tensor);
  const size_t written = fwrite((const char*)tensor->data + tensor->byte_offset, 1, bytes, file);
  return fclose(file) == 0 && written == bytes ? NULL : "could not be written whole";
}
