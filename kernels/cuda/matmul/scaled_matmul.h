// Products of 8-bit numbers with scales: Y[..., N] = residual + activation(sum of sx X sw W[N, K]^T + bias).
//
// matmul_fp8                                            matmul_int8
// Inputs
//   0  X  [..., K]         float8_e4m3fn                int8
//   1  W  [N, K]           float8_e4m3fn                int8
//   2  X's scales          float32, as X's granularity says
//   3  W's scales          float32, as W's granularity says
//   4  bias, optional      [N], float32 or of Y's type
//   5  residual, optional  of Y's shape and type
// Output
//   0  Y  [..., N]         float32, float16 or bfloat16
//
// ints: granularity of X's scales, granularity of W's scales (ScaleGranularity), activation (Activation of matmul.h),
// variant (as in matmul.h). Both granularities are kBlock or neither is; int8 has no kBlock. M is the product of X's
// leading extents.
//   kTensor   one element
//   kRow      [M] elements for X, [N] for W (the channel's)
//   kBlock    [M, ceil(K / 128)] elements for X: a scale for 128 k of a row; [ceil(N / 128), ceil(K / 128)] for W: one
//             for 128 by 128 numbers. Sums of 128 k are scaled before they are added up in float32.
// int8 sums are exact (int32). fp8 needs compute capability 8.9, int8 needs 8.0.
//
// quantize_rows
// Inputs
//   0  X  [..., K]         float32, float16 or bfloat16
//   1  scale, optional     float32, one element: all codes are X / scale, and scales are not computed
// Outputs
//   0  codes  [..., K]     int8 or float8_e4m3fn
//   1  scales              float32 [..., groups], groups = ceil(K / group); left out where scale is given
// ints: group, which is 0 for a whole row (groups = 1), or 128. scale = max|x| / 127 (int8) or max|x| / 448 (fp8), 1
// where that is 0; codes are X / scale rounded to the nearest, ties to even, and saturate. A NaN in X makes the group's
// scale NaN.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

enum class ScaleGranularity : int64_t { kTensor = 0, kRow = 1, kBlock = 2 };

void MatmulFp8(CudaContext& context);
void MatmulInt8(CudaContext& context);
void QuantizeRows(CudaContext& context);

}  // namespace ingot
