// Products of statically quantized tensors: codes (integers, or small floats) that stand for numbers with one scale and
// one zero each, and weights with a scale for each column.
//
// qlinear_matmul: Y[..., N] of X[..., K] and W[N, K]
// Inputs
//   0  X  [..., K]           int8, or float8_e4m3fn (compute capability 8.9)
//   1  W  [N, K]             of X's type; its zero is 0
//   2  factors               [N] float32: the scale of X times that of a column
//   3  offsets, optional     [N] int32: taken off sums of int8: X's zero times the sum of the column's weights
//   4  bias, optional        [N] float32
//   5  residual, optional    of Y's shape: codes of X's type, float32, float16 or bfloat16
// Output
//   0  Y                     codes of X's type, float32, float16 or bfloat16
//
// ints: activation (Activation of matmul.h), variant (as in matmul.h).
// floats (kQlinearFloats): the least and the most of a clamp, then (1 / scale, zero, scale) of codes that sums are
// rounded to and back before the bias, the same before the residual, (scale, zero) of a residual of codes, (1 / scale,
// zero) of Y. 1 / scale is 0 where nothing is rounded. Codes of small floats have the zero 0.
//
// v = (sum - offset) * factor; v = rounded(v) + bias; v = rounded(v) + residual; Y = codes(activation(v)), with
// codes(v) = round(v / scale) + zero, ties to even, saturated. Sums of int8 are exact (int32), all behind is float32.
// NaN becomes -128, as QuantizeLinear has it on CPUs, or float8's NaN.
//
// qlinear_conv (convolution/qlinear_conv.h) is the same of images.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

constexpr size_t kQlinearFloats = 12;

void QlinearMatmul(CudaContext& context);

}  // namespace ingot
