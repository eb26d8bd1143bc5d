// Convolutions of images, channels last: Y = activation(X * W + bias + residual), or residual + activation(X * W +
// bias).
//
// Inputs
//   0  X  [B, H, W, C]                  float32, float16 or bfloat16
//   1  W  [O, kh, kw, C / groups]       of X's type
//   2  bias, optional      [O], float32 or of X's type
//   3  residual, optional  of Y's shape and type
// Output
//   0  Y  [B, OH, OW, O]                of X's type, or float32; with OW likewise,
//                                       OH = (H + top + bottom - dilation (kh - 1) - 1) / stride + 1, rounded down
//
// ints: stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w, groups, activation (Activation of
// matmul.h), residual_last (0: added before the activation, 1: after it), precision (Float32Precision of matmul.h),
// variant (as in matmul.h; paths 2 to 4 gather pixels). floats: as in matmul.h.
// Pads are not negative. Sums are float32, and so is everything up to the one rounding of Y. A convolution of one
// dimension is one with H = kh = 1. Channels of a group that are a multiple of 16 bytes need no copy of X and W first.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

void Convolution(CudaContext& context);

}  // namespace ingot
