// Attention whose keys and values come from memory once, as for few queries: their bytes bound it, not arithmetic.
//
// A block takes 16 rows (the queries times the heads that share a head of keys), one head of keys and a part of the
// keys. Its warps stream tiles of 16 keys through shared memory with cp.async, each on its own, multiply them in tensor
// cores and keep a running softmax. Keys are read where they lie: one after another, in a ring or in pages.
#pragma once

#include "cuda/attention/problem.h"
#include "cuda/kernel.h"

namespace ingot::cuda {

// Puts the kernels on the stream and returns true; or returns false, having done nothing, where they do not take the
// problem. They take K and V of f16, bf16, int8 (with scales) or e4m3 (with or without) with rows at multiples of 16
// bytes, heads of 64, 96, 128 or 256 for both, any Q, and everything but masks. Sink queries of float32 with heads of
// 256 need more shared memory than capabilities 8.6 and 8.9 have. `variant` is for tuning: into how many parts the keys
// are divided (0: as many as fill the GPU; no more than 256) and 1,000 times how many tiles of a warp are in shared
// memory (0: as many as fit; 2 to 6).
bool DecodeAttention(const AttentionProblem& problem, CudaContext& context, int64_t variant = 0);

}  // namespace ingot::cuda
