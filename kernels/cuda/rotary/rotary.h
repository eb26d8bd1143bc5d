// Rotary embeddings (ONNX RotaryEmbedding) on a GPU.
//
// Inputs
//   0  X        [B, S, H, D] or [B, H, S, D]: float32, float16 or bfloat16
//   1  cosines  [B or 1, S, R / 2] of any of these types
//   2  sines    like the cosines
// Output
//   0  Y        of X's shape, of any of these types; it may be X's memory if it has X's type
//
// ints: layout (0 BSHD, 1 BHSD); interleaved; R, how many elements of a head are rotated, from the first on (0: all).
// Pairs are elements i and i + R / 2, or interleaved 2 i and 2 i + 1: (a, b) becomes (a cos - b sin, b cos + a sin).
// Arithmetic is in float32.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

void Rotary(CudaContext& context);

}  // namespace ingot
