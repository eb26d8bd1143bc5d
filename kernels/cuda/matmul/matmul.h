// Dense products: Y[..., M, N] = residual + activation(X[..., M, K] W + bias).
//
// matmul
// Inputs
//   0  X  [..., M, K]      float32, float16 or bfloat16
//   1  W  [..., N, K] with layout 0, [..., K, N] with layout 1; of X's type
//   2  bias, optional      [N], float32 or of X's type
//   3  residual, optional  of Y's shape and type
// Output
//   0  Y  [..., M, N]      of X's type, or float32
//
// ints: layout of W (WeightLayout), activation (Activation), precision (Float32Precision; for float32 only), variant.
// floats: the least and the most that kClamp leaves; NaN stays, and the most wins where the least is above it.
// The leading extents of X and W are broadcast against each other as in NumPy; where W has none, those of X count as
// rows. Sums are float32, whatever the types; bias, activation and residual are computed in float32 and rounded once.
// Constant weights are best stored with layout 0. Any extents will do; products whose K (with layout 1: K and N) is a
// multiple of 16 bytes need no copy of their operands first.
// variant: 0 takes the path and the number of slices of K that suit the problem; path + 100 slices (ProductPath of
// products.h; 0 slices: as many as suit) forces them, for benchmarks; 9 is cuBLASLt (cublaslt.h), which 0 takes too
// where it is there, and faster (library.cu). One that cannot compute the problem is an error.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

enum class WeightLayout : int64_t { kRowsOfK = 0, kRowsOfN = 1 };
enum class Activation : int64_t { kNone = 0, kRelu = 1, kGelu = 2, kGeluTanh = 3, kSilu = 4, kClamp = 5 };
// kTf32 rounds operands to TF32 (10 bits of fraction), for tensor cores. kFloat32 is float32's multiply-adds.
enum class Float32Precision : int64_t { kTf32 = 0, kFloat32 = 1 };

void Matmul(CudaContext& context);

}  // namespace ingot
