// What stands between a decoder's projections and attention, in one launch: Q and K are rotated, K and V go into the
// caches.
//
// Inputs
//   0  key cache    [B, C, H, D] or [B, C, H D]    float32, float16, bfloat16, int8 or float8_e4m3fn
//   1  value cache  [B, C, H, Dv] or [B, C, H Dv]  of the key cache's type
//   2  Q            [B, S, Hq, D]   float32, float16 or bfloat16. Without K and V, which are both given or neither, it
//                   is [B, S, Hq + 2 H, D]: heads of Q, then of K, then of V
//   3  K, optional  [B, S, H, D]    of any of these types
//   4  V, optional  [B, S, H, Dv]   like K
//   5  cosines, optional            [B or 1, S, R / 2], see rotary.h; nothing is rotated without
//   6  sines, optional
//   7  first, optional              int64 or int32 [B]: where each batch's steps start; 0 without
//   8  key scales, optional         float32 [B, C, H]. With int8, and optionally with float8_e4m3fn
//   9  value scales, optional       like them
//  10  sink cosines, optional       like the cosines: Q is rotated a second time, by these, for the sinks of attention
//  11  sink sines, optional
// Outputs
//   0, 1  the caches with the steps: in their own memory, or copies of them
//   2     Q [B, S, Hq, D], rotated, of any of its types; it may be Q's memory if it has Q's type and K is given
//   3, 4  the scales, like the caches, where there are any
//   3, or 5 behind scales  Q rotated by the sink angles, like output 2, where there are any; memory of its own
//
// ints: circular (slots are a ring); interleaved; R; sinks. A step goes where tensor_scatter puts it, or is reported as
// there. With scales a head of one step has the scale max(|x|, 1e-30) / 127 (448 for float8_e4m3fn), which is NaN if an
// x is, and its elements are divided by it and rounded to nearest even. Without, what is too large for float8_e4m3fn
// becomes 448. Heads are at most 512 elements.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

void RotaryCache(CudaContext& context);

}  // namespace ingot
