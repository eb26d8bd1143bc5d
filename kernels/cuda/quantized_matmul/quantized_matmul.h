// Products with quantized weights: Y[M, N] = residual + activation(X[M, K] W[N, K]^T + bias).
//
// Inputs, output and ints are those of the CPU kernel (cpu/quantized_matmul/quantized_matmul.h), but for the layout of
// packed W, below, and one more, optional, entry of ints: the variant. An activation of 8 more than the CPU's is that
// of gates: W has 2 N rows, of each panel eight gates and then the eight that these belong to, as biases have, and Y[M,
// N] = residual + activation(gate) * other; N is a multiple of 8.
//
// X of float16 and bfloat16 is multiplied in tensor cores by weights of its type, sums are float32. Codes of int8 and
// int4, less a zero of int8, are exact in that type, those that are looked up are rounded to it; what is multiplied
// with a scale is a group's sum in float32 (up to 32 rows of X) or the weight, which is then rounded to
// the type. X of float32 is multiplied in float32 with compute 0. Compute 1 allows to round X, to int8 on a CPU: here
// X of float32 is rounded to bfloat16, which is closer, and X of 16 bits is taken as it is; the group of activations
// does not matter. Weights with zeros of float32 are always multiplied in float32.
//
// Layout of packed W, uint8 [panels, bytes]. Panel p holds the rows n = 16 p to 16 p + 15 (rows past N are padding) of
// K' = K rounded up to 64 (k past K are padding). A step is 64 k; steps follow one another. A step is four matrices of
// 16 x 16, each of which a warp holds as operand A of mma.m16n8k16 (and of wgmma, whose warps hold 16 rows each): in
// lane 4 g + t, register i = 0 to 3 holds elements e = 0, 1 of row g + 8 (i % 2) and k = 2 t + 8 (i / 2) + e. A lane's
// codes lie together, so that it reads 16 bytes at a time, and a warp 512:
//   int4, 512 bytes      [lane 32][matrix 4] uint32: register i, element e in bits 4 i + 16 e to 4 i + 16 e + 3
//   mxfp4 and nf4, 512   [lane 32][matrix 4] uint32: register i, element e in bits 8 i + 4 e to 8 i + 4 e + 3
//   int8, 1024 bytes     [half 2][lane 32][matrix 2][i / 2] uint32: bits 8 (i % 2) + 16 e to 8 (i % 2) + 16 e + 7 hold
//                        the code + 128
// One shift, `and`s and a subtraction in halves make an operand of a word; a panel is read from start to end whatever
// the path. Padding is of any code in rows and of finite value in k: X is taken for 0 there.
//
// int8 zeros of int4 are at most 120. Packed W, scales and zeros are constants: they are read before the kernels in
// front on the stream have finished.
//
// normalized_matmul is the same of normalized rows of X: x / sqrt(mean of x^2 + epsilon) times (weight + offset), in
// float32, rounded to X's type. It has one more input, 6, optional: the weight [K] of float32, float16 or bfloat16; and
// floats: epsilon, offset. For up to 8 rows on the path of few rows each block normalizes them for itself, which saves
// a launch.
//
// variant: 0 takes what suits the problem. Others are for measurements, in decimal digits: the path (1 for up to 8
// rows: mma in blocks of 32 columns, 2: mma in blocks of 128, 3: wgmma, 4: as 1, with bulk copies, 5 for up to 32 rows:
// mma of weights that come straight from global memory) * 10^6 + slices of K in different blocks (paths 2 and 5) * 10^4
// + stages (path 4) or warps side by side in a block (path 5) * 100 + warps that share K in a block (path 3: rows of a
// tile / 8), where 0 is as chosen.
#pragma once

#include "cuda/kernel.h"

namespace ingot::cuda {

void QuantizedMatmul(CudaContext& context);
void NormalizedMatmul(CudaContext& context);

}  // namespace ingot::cuda
