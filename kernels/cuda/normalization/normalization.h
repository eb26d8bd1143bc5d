// Layer and RMS normalization of rows, with what stands before it in a decoder: the sum with a residual.
//
// Inputs
//   0  X  [..., N]               float32, float16 or bfloat16
//   1  weight, optional  [N]     of any of these types
//   2  bias, optional    [N]     of any of these types
//   3  residual, optional        of X's shape; of any of these types
// Outputs
//   0  Y  [..., N]               of any of these types: standardized (X + residual) weight + bias
//   1  sum, optional             of X's shape; of any of these types: X + residual, which may be X's or the residual's
//   memory
//
// What is standardized is the sum before it is rounded to output 1's type.
//
// ints: kind (0: (x - mean) / sqrt(variance + epsilon), 1: x / sqrt(mean of x^2 + epsilon)). floats: epsilon; offset,
// which is added to the weight. Arithmetic is in float32. Y may be X's memory.
#pragma once

#include "cuda/kernel.h"

namespace ingot {
void Normalize(CudaContext& context);

}  // namespace ingot
