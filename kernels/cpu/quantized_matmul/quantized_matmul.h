// Products with quantized weights: Y[M, N] = residual + activation(X[M, K] W[N, K]^T + bias).
//
// Inputs
//   0  X  [..., K]         float32, float16 or bfloat16; M is the product of the leading extents
//   1  packed W            uint8 [panels, bytes]: the codes of W, in panels of 16 rows, below
//   2  scales              [panels, groups, 16]: float32, float16, bfloat16, or uint8 for powers of two (2^(s - 127))
//   3  zeros, optional     [panels, groups, 16]: int8 or float32; the code (for int4: the code - 8) that stands for 0
//   4  bias, optional      float32 [N]
//   5  residual, optional  of Y's shape and type
// Output
//   0  Y  [..., N]         of X's type
//
// ints: format (QuantizedFormat), group, compute, activation group, activation (QuantizedActivation). `group` says how
// many k share a scale: a power of two of at least 16, or 0 for a whole row. With compute 0 weights are turned into
// floats and multiplied in float32. With compute 1 X is rounded to int8 first, q = round(x / s) with s = max|x| / 127,
// where each `activation group` of k has an s of its own (again a power of two of at least 16, or 0 for a whole row),
// and codes are multiplied in integers: exactly, sums of the groups are added up in float32. A NaN or an infinity in a
// row of X makes that row of Y NaN, or what the definition says, and touches no other.
//
// Formats, and the number w of a code c, scale s and zero z
//   int8   one byte, signed: w = s (c - z)
//   int4   a nibble of 0 to 15: w = s (c - 8 - z)
//   mxfp4  a nibble, OCP's E2M1: w = s E2M1[c]; the group is 32 by the standard
//   nf4    a nibble: w = s NF4[c], the 16 quantiles of QLoRA; with compute 1 they are rounded to multiples of 1/127
//
// Layout of packed W, for all instruction sets. Panel p holds the rows n = 16 p to 16 p + 15 (rows past N are padding)
// of K' = K rounded up to 8 (k past K are padding). A step is 8 k; steps follow one another, and one step is
//   int8          128 bytes: c[n, k] at (k % 8 / 4) * 64 + (n % 16) * 4 + k % 4
//   nibbles       64 bytes: byte (n % 16) * 4 + i holds c[n, k = i] in its low half and c[n, k = i + 4] in its high one
// so that a 32-bit lane holds four k of one column, which is what dot products of bytes read; one `and` and one shift
// unpack a vector of nibbles, and a panel is read from start to end whatever M is. Padding is of any code in rows and
// of finite value in k: X is taken for 0 there.
#pragma once

#include "kernel.h"

namespace ingot {

enum class QuantizedFormat : int64_t { kInt8 = 0, kInt4 = 1, kMxfp4 = 2, kNf4 = 3 };
enum class QuantizedActivation : int64_t { kNone = 0, kRelu = 1, kGelu = 2, kGeluTanh = 3, kSilu = 4 };

void QuantizedMatmul(KernelContext& context);
#if defined(__x86_64__)
void QuantizedMatmulAvx2(KernelContext& context);
void QuantizedMatmulAvxVnni(KernelContext& context);
void QuantizedMatmulAvx512(KernelContext& context);
void QuantizedMatmulAvx512Vnni(KernelContext& context);
void QuantizedMatmulAmx(KernelContext& context);
#elif defined(__aarch64__)
void QuantizedMatmulNeon(KernelContext& context);
void QuantizedMatmulNeonDotprod(KernelContext& context);
void QuantizedMatmulNeonI8mm(KernelContext& context);
#endif

}  // namespace ingot
