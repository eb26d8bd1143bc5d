/* Runs a compiled model from C.
 *
 *   ingot-run MODEL.ingot [INPUT=FILE.npy | INPUT=2,3=FILE | INPUT=2,3 | OUTPUT=FILE]...
 *
 * An input comes from a .npy file, from raw bytes of a given shape, or is zeros of a given shape; one that is not
 * mentioned is zeros with every symbolic extent 1. An output is written to a file as raw bytes, and printed if it is
 * not mentioned. */

#include <ingot/ingot.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "npy.h"

#define MAX_DIMS 16

static void fail(const char* subject, const char* problem) {
  fprintf(stderr, "ingot-run: %s %s\n", subject, problem);
  exit(1);
}

/* Ends the program with libingot's message if a call of it failed. */
static void check(ingot_status status) {
  if (status == INGOT_OK) return;
  fprintf(stderr, "%s: %s\n", ingot_status_name(status), ingot_last_error());
  exit(1);
}

/* What the command line says after "name=", or NULL. */
static const char* argument(int argc, char** argv, const char* name) {
  const size_t length = strlen(name);
  for (int i = 2; i < argc; ++i) {
    if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=') return argv[i] + length + 1;
  }
  return NULL;
}

static void set_input(ingot_session* session, size_t index, const ingot_tensor_info* info, const char* given) {
  int64_t shape[MAX_DIMS];
  if (info->ndim > MAX_DIMS) fail(info->name, "has too many dimensions for this example");
  for (int32_t i = 0; i < info->ndim; ++i) shape[i] = info->shape[i] < 0 ? 1 : info->shape[i];
  DLTensor tensor = {.device = {kDLCPU, 0}, .ndim = info->ndim, .dtype = info->dtype, .shape = shape};

  const char* file = given;
  if (given != NULL && strspn(given, "0123456789,") == strcspn(given, "=")) { /* a shape, then perhaps a file */
    char* at = (char*)given;
    for (int32_t i = 0; i < info->ndim; ++i) {
      shape[i] = strtoll(at, &at, 10);
      if (*at == ',') ++at;
    }
    file = *at == '=' ? at + 1 : NULL;
  }
  if (file != NULL) {
    const char* problem = read_tensor(file, &tensor);
    if (problem != NULL) fail(file, problem);
  } else {
    tensor.data = calloc(tensor_bytes(&tensor) + 1, 1);
    if (tensor.data == NULL) fail(info->name, "does not fit into memory");
  }
  check(ingot_session_set_input(session, index, &tensor)); /* borrows tensor.data, which lives until the program ends */
}

static void print(const char* name, const DLTensor* tensor) {
  printf("%s [", name);
  int64_t count = 1;
  for (int32_t i = 0; i < tensor->ndim; ++i) {
    printf("%s%" PRId64, i == 0 ? "" : ", ", tensor->shape[i]);
    count *= tensor->shape[i];
  }
  printf("]:");
  const char* data = (const char*)tensor->data + tensor->byte_offset;
  for (int64_t i = 0; i < count && i < 8; ++i) {
    if (tensor->dtype.code == kDLFloat && tensor->dtype.bits == 32) {
      printf(" %g", ((const float*)data)[i]);
    } else if (tensor->dtype.code == kDLFloat && tensor->dtype.bits == 64) {
      printf(" %g", ((const double*)data)[i]);
    } else if (tensor->dtype.code == kDLInt && tensor->dtype.bits == 64) {
      printf(" %" PRId64, ((const int64_t*)data)[i]);
    } else if (tensor->dtype.code == kDLInt && tensor->dtype.bits == 32) {
      printf(" %" PRId32, ((const int32_t*)data)[i]);
    } else {
      printf(" 0x%02x", ((const unsigned char*)data)[i * ((tensor->dtype.bits + 7) / 8)]);
    }
  }
  printf(count > 8 ? " ...\n" : "\n");
}

int main(int argc, char** argv) {
  if (argc < 2) fail("usage:", "ingot-run MODEL.ingot [INPUT=FILE.npy | INPUT=SHAPE[=FILE] | OUTPUT=FILE]...");
  ingot_model* model;
  check(ingot_model_load(argv[1], NULL, &model));
  ingot_session* session;
  check(ingot_session_create(model, &session));

  size_t inputs, outputs;
  check(ingot_model_num_inputs(model, &inputs));
  check(ingot_model_num_outputs(model, &outputs));
  for (size_t i = 0; i < inputs; ++i) {
    ingot_tensor_info info;
    check(ingot_model_input(model, i, &info));
    set_input(session, i, &info, argument(argc, argv, info.name));
  }
  check(ingot_session_run(session));
  for (size_t i = 0; i < outputs; ++i) {
    ingot_tensor_info info;
    check(ingot_model_output(model, i, &info));
    const DLTensor* tensor;
    check(ingot_session_output(session, i, &tensor));
    const char* file = argument(argc, argv, info.name);
    const char* problem = file != NULL ? write_tensor(file, tensor) : NULL;
    if (problem != NULL) fail(file, problem);
    if (file == NULL) print(info.name, tensor);
  }

  ingot_session_free(session);
  ingot_model_free(model);
  return 0;
}
