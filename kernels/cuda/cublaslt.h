// cuBLASLt, NVIDIA's library of products, where it can be loaded at run time: nothing is linked with it, and what it
// does not take our own kernels do.
//
// The library is libcublasLt.so.13 or .12, wherever the loader finds it (in a process that has loaded it before, as
// PyTorch does, this is that one). The environment's INGOT_CUBLASLT names another file, or leaves it out with 0.
#pragma once

#include <library_types.h>

#include <string>

#include "cuda/kernel.h"

namespace ingot {

// Y = X W + bias + C, of matrices of rows without gaps; steps are elements. Activations are not among what the library
// is asked for: it does not say how exact they are, and what they make of NaN.
struct LibraryProduct {
  cudaDataType type = CUDA_R_32F;    // of X and W
  cudaDataType result = CUDA_R_32F;  // of Y, C and bias
  bool tf32 = false;                 // float32 may be rounded to TF32
  bool rows_of_n = false;            // W is [k, n], else [n, k]
  int64_t m = 0, n = 0, k = 0;       // none of them 0
  int64_t matrices = 1;
  int64_t x_step = 0, w_step = 0;  // from matrix to matrix; those of Y and C lie side by side
  const void* x = nullptr;
  const void* w = nullptr;
  const void* bias = nullptr;  // nullptr: none
  const void* c = nullptr;     // nullptr: none
  void* y = nullptr;
};

// Why the library is not there ("INGOT_CUBLASLT is 0"), or nothing where it is.
std::string WhyNoLibrary();

// Puts a product on the context's stream, with workspace of the context, so that it can be captured in a graph. False,
// and nothing is done, where the library is not there or has no kernel for it. Fails if the library does.
bool RunLibraryProduct(CudaContext& context, std::string_view kernel, const LibraryProduct& product);

}  // namespace ingot
