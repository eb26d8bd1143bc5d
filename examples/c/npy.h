/* Tensors from files: NumPy's .npy, or raw bytes of a given shape. */
#ifndef NPY_H_
#define NPY_H_

#include <dlpack/dlpack.h>
#include <stddef.h>

/* The bytes of a C-contiguous tensor's elements. */
size_t tensor_bytes(const DLTensor* tensor);

/* Reads `path` into `tensor`, whose ndim and dtype are set. A .npy file brings its shape; raw bytes are of the shape
 * that is set. Allocates data. Returns NULL, or what is wrong. */
const char* read_tensor(const char* path, DLTensor* tensor);

/* Writes the elements of a tensor. Returns NULL, or what is wrong. */
const char* write_tensor(const char* path, const DLTensor* tensor);

#endif
