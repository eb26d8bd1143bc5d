// Exact attention: O = softmax(softcap(scale Q Kᵀ) + mask) V, computed in tiles with a running softmax, so that the
// scores of all queries and keys never exist at once.
//
// Inputs
//   0  Q  [B, S, Hq, D]    float32, float16 or bfloat16; all arithmetic is in float32
//   1  K  [B, T, Hkv, D]   like Q; Hq is a multiple of Hkv, and query head h reads key head h / (Hq / Hkv)
//   2  V  [B, T, Hkv, Dv]  of K's type
//   3  mask, optional      broadcastable to [B, Hq, S, T]: bool, true where a query may see a key, or a number to add
//   to
//                          the scores of float32, float16 or bfloat16
//   4  lengths, optional   int64 or int32 [B]: how many keys each batch has; later ones are never read. 0 to T
// Output
//   0  O  [B, S, Hq, Dv]   of Q's type
// D and Dv are at most kMostAttentionSize.
//
// ints: the layouts of Q, K, V and O (AttentionLayout); then left, right and at_end. Query i stands at position p = i,
// or with at_end so that the last query stands at the last key: p = i + length - S. It sees the keys p - left to p +
// right; -1 is no bound. Causal attention is right = 0, a sliding window of w tokens left = w - 1. floats: scale, and
// softcap c, which makes c tanh(score / c) of a score before the mask is added; 0 is none.
//
// A query that sees no key, or only keys with a mask of -inf, gets zeros. A NaN or +inf score gives NaN to its query.
// Values whose weight is 0 may be left unread.
#pragma once

#include "kernel.h"

namespace ingot {

// How a tensor of [batch, sequence, head, size] lies in memory.
enum class AttentionLayout : int64_t {
  kSequenceFirst = 0,  // [B, S, H, D]
  kHeadFirst = 1,      // [B, H, S, D]
  kTransposed = 2,     // [B, H, D, S]; K only
  kBatchSecond = 3,    // [S, B, H, D]
};

constexpr int64_t kMostAttentionSize = 256;

void Attention(KernelContext& context);
#if defined(__x86_64__)
void AttentionAvx2(KernelContext& context);
void AttentionAvx512(KernelContext& context);
#elif defined(__aarch64__)
void AttentionNeon(KernelContext& context);
#endif

}  // namespace ingot
