// Kernels that do one thing each, by which tests compare instructions of the emulator with a GPU's, and both with NumPy
// (test_emulator.py).
#pragma once

#include "cuda/kernel.h"

namespace ingot {

// (A [16, K], B [8, K]) -> A B^T [16, 8], K of 32 bytes, in one mma: bfloat16, float16, float32 (TF32), int8,
// float8_e4m3fn -> float32 (int8: int32); float16 -> float16 with sums in float16.
void CheckMma(CudaContext& context);
// (uint16 [32, 8]) -> uint32 [12, 32]: registers of ldmatrix x4, x4 transposed, x2 and its transposed, of all lanes;
// lane i reads row i.
void CheckLoadMatrix(CudaContext& context);
// (uint32 [4, 32] registers) -> uint16 [2, 32, 8]: what stmatrix x4 and its transposed write, where lane i gives row i.
void CheckStoreMatrix(CudaContext& context);
// (A [64, K] or [K, 64], B [N, K] or [K, N]) -> A B [64, N], K of 64 bytes at least, at most a row of the swizzle if
// K-major; ints: swizzle (as ptx::Swizzle), whether A and B lie MN-major, whether A goes through registers.
void CheckWgmma(CudaContext& context);
// (source of rank 1 to 4) -> bytes of the box in shared memory, uint8, and a tensor like the source, into which the box
// goes with ints: swizzle, box, coordinates to load from, coordinates to store to (rank each, innermost first). Rank 1
// is not stored.
void CheckTensorMap(CudaContext& context);
// (int32 [threads]) -> int32 [4, threads]: sums over the block, through the means named in checks_barriers.cu.
void CheckBarriers(CudaContext& context);
// () -> int32 [rows columns, 2]: row and column of each tile; ints: rows, columns, rows of a band.
void CheckBands(CudaContext& context);
// (float32 [1024]) -> float32 [1024], through a pipeline of cp.async; ints: what is wrong (0 nothing;
// checks_failures.cu).
void CheckFailures(CudaContext& context);

}  // namespace ingot
