// Device code that the kernels of attention share: which keys a query sees and where they lie, elements as floats, and
// the last step of a softmax.
#pragma once

#include <cmath>

#include "cuda/attention/problem.h"
#include "cuda/ptx.h"

namespace ingot::cuda {

constexpr float kLog2E = 1.44269504f;

// The keys of a batch, numbered from the oldest.
struct Sequence {
  int32_t length;
  int64_t query;  // the position of the first query
  int64_t shift;  // by how much the position of a key behind the pinned ones exceeds its number
  int32_t turn;   // by how many slots a key behind the pinned ones lies farther round the ring than its number says
};

__device__ inline int64_t IntegerAt(const void* data, bool is_long, int64_t i) {
  return is_long ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
}

__device__ inline int64_t Clamped(int64_t x, int64_t least, int64_t most) {
  return x < least ? least : x > most ? most : x;
}

// A batch's Sequence::shift and turn. It has more than the pinned keys.
struct Turn {
  int64_t shift;
  int32_t turn;
};

__device__ inline Turn ReadRing(const void* ring, bool is_long, int64_t batch, int64_t sink_keys, int64_t keys) {
  const int64_t position = IntegerAt(ring, is_long, 2 * batch);
  const int64_t slot = IntegerAt(ring, is_long, 2 * batch + 1);
  return {Clamped(position, sink_keys, kUnbounded) - sink_keys,
          static_cast<int32_t>(Clamped(slot, sink_keys, keys - 1) - sink_keys)};
}

__device__ inline Sequence ReadSequence(const AttentionProblem& problem, int64_t batch) {
  Sequence sequence{};
  const int64_t length =
      problem.lengths == nullptr ? problem.keys : IntegerAt(problem.lengths, problem.long_lengths, batch);
  sequence.length = static_cast<int32_t>(Clamped(length, 0, problem.keys));
  if (problem.ring != nullptr && sequence.length > problem.sink_keys) {
    const Turn turn = ReadRing(problem.ring, problem.long_ring, batch, problem.sink_keys, problem.keys);
    sequence.shift = turn.shift;
    sequence.turn = turn.turn;
  }
  if (problem.at_end) sequence.query = sequence.length + sequence.shift - problem.queries;
  return sequence;
}

// The keys that a query sees: [begin, end), and those of the first sink_keys that come before end.
struct Visible {
  int32_t begin, end;
};

__device__ inline Visible VisibleKeys(const AttentionProblem& problem, const Sequence& sequence, int64_t query) {
  const int64_t position = query + sequence.query;
  const int64_t right = position + problem.right + 1;
  const int64_t left = position - problem.left - sequence.shift;
  const int64_t pinned = right < problem.sink_keys ? right : problem.sink_keys;
  const int64_t behind = right - sequence.shift;
  const int64_t end = Clamped(behind > pinned ? behind : pinned, 0, sequence.length);
  const int64_t begin = left <= problem.sink_keys ? 0 : Clamped(left, 0, end);
  return {static_cast<int32_t>(begin), static_cast<int32_t>(end)};
}

__device__ inline bool IsVisible(const AttentionProblem& problem, const Visible& visible, int32_t key) {
  return key < visible.end && (key >= visible.begin || key < problem.sink_keys);
}

// The keys of several queries: `pinned` from the first on, and [begin, end).
struct Span {
  int32_t pinned, begin, end;
};

__device__ inline Span SpanOf(const AttentionProblem& problem, const Sequence& sequence, int64_t first, int64_t last) {
  const int32_t begin = VisibleKeys(problem, sequence, first).begin;
  const int32_t end = VisibleKeys(problem, sequence, last).end;
  const int32_t sinks = static_cast<int32_t>(problem.sink_keys < end ? problem.sink_keys : end);
  // Pinned keys with queries of their own are never in one tile with others.
  if (begin <= sinks && problem.sink_q == nullptr) return {0, 0, end};
  return {sinks, static_cast<int32_t>(Clamped(begin, sinks, end)), end};
}

// Where a key lies: the batch of K and V (a page), and the step in it.
struct Place {
  int64_t batch;
  int64_t step;
};

__device__ inline Place PlaceOf(const AttentionProblem& problem, const Sequence& sequence, int64_t batch, int32_t key) {
  if (problem.pages != nullptr) {
    const int32_t page_size = static_cast<int32_t>(problem.page_size);
    const int32_t page = problem.pages[batch * problem.page_row + key / page_size];
    return {Clamped(page, 0, problem.pool_pages - 1), key % page_size};
  }
  if (problem.ring == nullptr || key < problem.sink_keys) return {batch, key};
  const int64_t slot = int64_t{key} + sequence.turn;
  return {batch, slot < problem.keys ? slot : slot - (problem.keys - problem.sink_keys)};
}

__device__ inline int64_t PositionOf(const AttentionProblem& problem, const Sequence& sequence, int32_t key) {
  return key + (key < problem.sink_keys ? 0 : sequence.shift);
}

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__half x) { return __half2float(x); }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float ToFloat(int8_t x) { return static_cast<float>(x); }
__device__ inline float ToFloat(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

template <AttentionElement kElement>
struct ElementType;
template <>
struct ElementType<AttentionElement::kFloat> {
  using Type = float;
};
template <>
struct ElementType<AttentionElement::kHalf> {
  using Type = __half;
};
template <>
struct ElementType<AttentionElement::kBfloat> {
  using Type = __nv_bfloat16;
};
template <>
struct ElementType<AttentionElement::kInt8> {
  using Type = int8_t;
};
template <>
struct ElementType<AttentionElement::kFp8> {
  using Type = __nv_fp8_e4m3;
};

// An element of Q, or a number of a mask.
__device__ inline float FloatAt(const void* data, AttentionElement element, int64_t i) {
  if (element == AttentionElement::kHalf) return ToFloat(static_cast<const __half*>(data)[i]);
  if (element == AttentionElement::kBfloat) return ToFloat(static_cast<const __nv_bfloat16*>(data)[i]);
  return static_cast<const float*>(data)[i];
}

__device__ inline void StoreFloat(void* data, AttentionElement element, int64_t i, float x) {
  if (element == AttentionElement::kHalf) {
    static_cast<__half*>(data)[i] = __float2half_rn(x);
  } else if (element == AttentionElement::kBfloat) {
    static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(x);
  } else {
    static_cast<float*>(data)[i] = x;
  }
}

// Where a row of O starts. Rows of a head of keys are its queries times its heads: row r is query r / group of head
// r % group.
__device__ inline int64_t OutputOf(const AttentionProblem& problem, int64_t batch, int64_t kv_head, int64_t row) {
  return batch * problem.o.batch + row / problem.group * problem.o.sequence +
         (kv_head * problem.group + row % problem.group) * problem.o.head;
}

// What a part of the keys leaves for a row: its greatest score, times log2 e, and the sum of 2^(score - greatest). With
// scales the greatest is one of V's scaled by them. A part that saw no key has the sum 0.
struct State {
  float max, sum;
};

// A row's sum with its head's sink, relative to 2^base; the factor of O is the reciprocal, 0 for a row that saw
// nothing.
__device__ inline float OutputFactor(const AttentionProblem& problem, int64_t head, float base, float sum) {
  float factor = 1;
  if (problem.sinks != nullptr) {
    const float sink = problem.sinks[head] * kLog2E;
    if (sink == INFINITY) return NAN;
    const float top = fmaxf(base, sink);
    if (top > -INFINITY) {
      factor = base == -INFINITY ? 1.0f : exp2f(base - top);
      sum = sum * factor + exp2f(sink - top);
    }
  }
  return sum == 0 ? 0 : factor / sum;
}

}  // namespace ingot::cuda
