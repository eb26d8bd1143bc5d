// Attention of many queries: exact, in tiles with a running softmax; products of f16 or bf16 in tensor cores, sums and
// softmax in float32.
//
// Two paths. Hopper's (hopper.h: TMA, wgmma, a warp that loads and two or three warpgroups that compute) takes causal
// attention, windows with pinned keys, softcap, sinks and key lengths. Ampere's (ampere.h: mma.sync, cp.async) runs on
// compute capability 8.0 and later and also takes masks, slopes, rings and sink queries.
#pragma once

#include "cuda/attention/problem.h"
#include "cuda/kernel.h"

namespace ingot::cuda {

// Puts the kernel on the stream and returns true; or returns false, having done nothing, where neither path takes the
// problem: elements that are not f16 or bf16 throughout, head sizes that are not multiples of 8 up to 256, K
// transposed, addresses or strides that are not multiples of 16 bytes, pages.
// `variant` picks another tile for measurements (0: the one that is best known; ones that do not fit the problem are as
// 0).
bool PrefillAttention(const AttentionProblem& problem, CudaContext& context, int64_t variant = 0);

// The registry's row `attention_prefill`: the contract of `attention` (cpu/attention/attention.h), with one more
// optional entry of ints, the variant. Fails where PrefillAttention returns false. For tests and measurements.
void AttentionPrefill(CudaContext& context);

}  // namespace ingot::cuda
