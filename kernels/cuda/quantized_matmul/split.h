// Blocks that share K: each writes its part to scratch memory, and the one that finds all others' there adds them up.
#pragma once

#include "cuda/quantized_matmul/epilogue.h"

namespace ingot::cuda::quantized_matmul {

// What a block writes when its part is in scratch memory. Memory that was never written may hold it by a chance of
// 2^-64; what has been read is overwritten.
constexpr unsigned long long kArrived = 0x9E3779B97F4A7C15;

// Whether this block, whose part is written, is to add up the parts of a tile. More than one may be: they write the
// same.
INGOT_PTX bool AllArrived(unsigned long long* arrivals) {
  __shared__ int all;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicExch(arrivals + blockIdx.y, kArrived);
    __threadfence();
    all = 1;
    for (int i = 0; i < static_cast<int>(gridDim.y); ++i) {
      if (atomicAdd(arrivals + i, 0ULL) != kArrived) all = 0;
    }
    __threadfence();
  }
  __syncthreads();
  return all != 0;
}

// An element of all parts, so many elements apart.
INGOT_PTX float SumOfParts(const float* parts, int apart) {
  float sum = __ldcg(parts);
  for (int split = 1; split < static_cast<int>(gridDim.y); ++split) sum += __ldcg(parts + split * apart);
  return sum;
}

}  // namespace ingot::cuda::quantized_matmul
