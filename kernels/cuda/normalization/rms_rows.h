// RMS normalization as a part of other kernels.
#pragma once

#include "cuda/elements.h"
#include "cuda/kernel.h"

namespace ingot::cuda {

// Writes `rows` rows of X of `size` elements, RMS-normalized, times a weight [size] and `offset`.
struct RmsRows {
  Floats x, weight, y;  // weight: none is 1
  int64_t rows, size;
  float epsilon, offset;
};
void NormalizeRms(const RmsRows& rows, CudaContext& context);

}  // namespace ingot::cuda
