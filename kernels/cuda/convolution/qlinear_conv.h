// Convolutions of statically quantized images, channels last: qlinear_matmul (matmul/qlinear.h) of the pixels under a
// window.
//
// Inputs
//   0  X  [B, H, W, C]                  int8, or float8_e4m3fn (compute capability 8.9)
//   1  W  [O, kh, kw, C / groups]       of X's type
//   2 to 5                              as qlinear_matmul's, with N = O
// Output
//   0  Y  [B, OH, OW, O]                as qlinear_matmul's
//
// ints: stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w, groups (as in convolution.h), activation,
// the code that X is outside (its zero), variant (paths 2 to 4 gather pixels). floats: as qlinear_matmul's. Channels of
// a group that are a multiple of 16 need no copy of X and W first.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

void QlinearConv(CudaContext& context);

}  // namespace ingot
