// Products that cuBLASLt computes, where it is there and faster.
#pragma once

#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/problem.h"

namespace ingot {

constexpr int64_t kLibraryVariant = 9;  // of matmul: what forces cuBLASLt

// A product of X and W, which lie in memory without gaps. p says sizes and batches.
struct DenseProduct {
  const void* x;
  const void* w;
  Number number;  // X's and W's
  bool rows_of_n;
  int64_t precision;  // Float32Precision
  MatmulProblem p;
};

// Whether cuBLASLt is faster for products of these sizes.
bool IsLibraryFaster(const DenseProduct& product, int capability);

// Lets cuBLASLt compute all of it. False, and nothing is done, where that cannot be, or it is not there.
bool RunLibrary(CudaContext& context, std::string_view kernel, const DenseProduct& product, const Epilogue& e);

}  // namespace ingot
