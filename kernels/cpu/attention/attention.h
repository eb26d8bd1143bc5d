// Exact attention: O = softmax(softcap(scale Q Kᵀ) + slopes + mask) V, computed in tiles with a running softmax, so
// that the scores of all queries and keys never exist at once.
//
// Inputs
//   0  Q  [B, S, Hq, D]    float32, float16 or bfloat16; all arithmetic is in float32, or as exact but for
//                          weights, which may be the sum of two bfloat16 where Q and K are bfloat16
//   1  K  [B, T, Hkv, D]   float32, float16, bfloat16 or int8; Hq is a multiple of Hkv, and query head h reads key head
//                          h / (Hq / Hkv)
//   2  V  [B, T, Hkv, Dv]  of K's type
//   3  mask, optional      broadcastable to [B, Hq, S, T]: bool, true where a query may see a key, or a number to add
//                          to the scores of float32, float16 or bfloat16
//   4  lengths, optional   int64 or int32 [B]: how many keys each batch has; later ones are never read. 0 to T
//   5  slopes, optional    float32 [Hq] (ALiBi): the score of a query at position p and a key at j gets slope (j - p)
//   6  sinks, optional     float32 [Hq]: one more score in each softmax of a head, which belongs to no key
//   7  K's scales          float32 [B, T, Hkv], for int8 alone: an element of K is the int8 times its scale
//   8  V's scales          like K's
//   9  pages, optional     int32 [B, P]: K and V are then pools [pages, page size, Hkv, D], their scales [pages, page
//                          size, Hkv], and T is P × page size. Key i of a batch is in page pages[b, i / page size], at
//                          i % page size. What lies beyond the lengths is not looked at, in this table or in the pools
//  10  ring, optional      int64 or int32 [B, 2]: position and slot of the ring's oldest key, see below
//  11  sink queries,       like Q, of its type and layout: what the first sink_keys keys are multiplied by in place of
//  Q
//      optional
// Output
//   0  O  [B, S, Hq, Dv]   of Q's type
// D and Dv are at most kMostAttentionSize.
//
// ints: the layouts of Q, K, V and O (AttentionLayout; that of a pool is meant with pages as batches); then left,
// right, flags (AttentionFlags) and sink_keys. floats: scale, and softcap c, which makes c tanh(score / c) of a score
// before slopes and mask are added; 0 is none.
//
// Keys are numbered from the oldest, and masks by these numbers. Query i stands at position p = i, or with kAtEnd so
// that the last query stands at the last key: p = i + (that key's position) + 1 - S, or i - S without keys. It sees the
// keys at p - left to p + right; -1 is no bound. Causal attention is right = 0, a sliding window of w tokens left =
// w - 1. The first sink_keys keys are seen however far behind they are (StreamingLLM); p + right still bounds them.
// Where keys and queries are rotated by their positions, sink queries are the same ones at other positions, so that
// sinks are no farther behind than in training.
//
// Key i lies in slot i and stands at position i, except in a ring: there the first sink_keys keys do, and the others go
// round the slots from sink_keys to T - 1. Key sink_keys lies in the slot that `ring` gives, at the position that it
// gives, which is sink_keys or more; the next key in the next slot, at the next position. A ring that has not yet
// overflowed has {sink_keys, sink_keys}.
//
// Keys that a mask hides from many queries may be left out, whatever they hold: those with a mask of -inf, and where it
// is below -10^38 those of queries that have seen another key.
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

enum AttentionFlags : int64_t {
  kAtEnd = 1,  // the last query stands at the last key
  kRoundsOperands =
      2,  // where it is faster, products are of Q, K, V and weights rounded to bfloat16; sums are in float32
};

constexpr int64_t kMostAttentionSize = 256;

void Attention(KernelContext& context);
#if defined(__x86_64__)
void AttentionAvx2(KernelContext& context);
void AttentionAvx512(KernelContext& context);
void AttentionAmx(KernelContext& context);
#elif defined(__aarch64__)
void AttentionNeon(KernelContext& context);
#endif

}  // namespace ingot
