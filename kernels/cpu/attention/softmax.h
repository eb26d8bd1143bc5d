// The running softmax of a unit's rows: slopes, masks, and the state that each block of keys updates.
#pragma once

#include "cpu/attention/masks.h"
#include "simd/math.h"

namespace ingot::attention {

template <typename V, typename T>
INGOT_INLINE void AddMask(const T* mask, float* scores, int64_t count) {
  int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::Store(scores + i, V::Load(scores + i) + V::Load(mask + i));
  if (i < count) {
    const auto sum = V::LoadFirst(scores + i, count - i) + V::LoadFirst(mask + i, count - i);
    V::StoreFirst(scores + i, count - i, sum);
  }
}

// Hides the keys whose byte, one of `apart`, is 0. Mostly eight at a time are all 1.
INGOT_INLINE void HideFalse(const uint8_t* seen, int64_t apart, float* scores, int64_t count) {
  constexpr uint64_t kAllOne = 0x0101010101010101;
  int64_t i = 0;
  for (uint64_t eight; apart == 1 && i + 8 <= count; i += 8) {
    std::memcpy(&eight, seen + i, sizeof(eight));
    if (eight == kAllOne) continue;
    for (int64_t j = i; j < i + 8; ++j) scores[j] = seen[j] != 0 ? scores[j] : kMinusInfinity;
  }
  for (; i < count; ++i) scores[i] = seen[i * apart] != 0 ? scores[i] : kMinusInfinity;
}

// Adds a mask's elements from `first` on to `count` scores.
template <typename V>
INGOT_INLINE void ApplyMask(const Mask& mask, int64_t first, float* scores, int64_t count) {
  if (mask.element == Element::kBool) {
    return HideFalse(static_cast<const uint8_t*>(mask.data) + first, mask.key, scores, count);
  }
  const auto apply = [&]<typename T>(const T* from) __attribute__((always_inline)) {
    if (mask.key == 1) return AddMask<V>(from, scores, count);
    T one[V::kLanes];
    for (int i = 0; i < V::kLanes; ++i) one[i] = *from;  // the mask is the same for all keys
    const float term = V::ReduceMax(V::Load(one));
    for (int64_t i = 0; i < count; ++i) scores[i] += term;
  };
  switch (mask.element) {
    case Element::kHalf:
      return apply(static_cast<const Half*>(mask.data) + first);
    case Element::kBfloat:
      return apply(static_cast<const Bfloat16*>(mask.data) + first);
    default:
      return apply(static_cast<const float*>(mask.data) + first);
  }
}

// Of every so manieth score the greatest. The columns are whole pairs of vectors.
template <typename V>
INGOT_INLINE typename V::Float GreatestVectorOf(const float* scores, Range columns) {
  auto even = V::Set(kMinusInfinity);
  auto odd = even;
  for (int64_t i = columns.begin; i < columns.end; i += 2 * V::kLanes) {
    even = V::Max(even, V::Load(scores + i));
    odd = V::Max(odd, V::Load(scores + i + V::kLanes));
  }
  return V::Max(even, odd);
}
template <typename V>
INGOT_INLINE float GreatestOf(const float* scores, Range columns) {
  return V::ReduceMax(GreatestVectorOf<V>(scores, columns));
}

// Which of some columns a row sees: those before `pinned`, and from `begin` to `end`.
struct Seen {
  int64_t pinned, begin, end;
};

INGOT_INLINE Seen SeenOf(const Problem& problem, const Unit& unit, int64_t row, const Block& block, Range columns) {
  const Range visible = VisibleKeys(problem, unit, row);
  const int64_t last = Least(columns.end, block.count);
  const int64_t begin = Least(Greatest(visible.begin - block.first, columns.begin), last);
  const int64_t end = Greatest(Least(visible.end - block.first, last), begin);
  return {Greatest(Least(problem.sink_keys - block.first, begin), columns.begin), begin, end};
}

INGOT_INLINE void HideUnseen(float* scores, Range columns, const Seen& seen) {
  for (int64_t i = seen.pinned; i < seen.begin; ++i) scores[i] = kMinusInfinity;
  for (int64_t i = seen.end; i < columns.end; ++i) scores[i] = kMinusInfinity;
}

// Whether all of these rows see all columns, but for what a mask hides.
INGOT_INLINE bool AreSeen(const Problem& problem, const Unit& unit, Range rows, const Block& block, Range columns) {
  // Both ends of what a row sees grow with the row.
  const int64_t begin = VisibleKeys(problem, unit, rows.end - 1).begin - block.first;
  const int64_t end = VisibleKeys(problem, unit, rows.begin).end - block.first;
  return begin <= columns.begin && columns.end <= Least(end, block.count);
}

// Makes products of scaled queries and keys into scores: scores[i] for i in `columns` is the block's key i's. Returns
// the greatest. The columns are whole pairs of vectors.
template <typename V>
INGOT_INLINE float FinishScores(const Problem& problem, const Unit& unit, int64_t row, float* scores,
                                const Block& block, Range columns) {
  const Seen seen = SeenOf(problem, unit, row, block, columns);
  if (problem.softcap > 0) {
    for (int64_t i = columns.begin; i < columns.end; i += V::kLanes)
      V::Store(scores + i, V::Set(problem.softcap) * simd::Tanh<V>(V::Load(scores + i)));
  }
  if (problem.slopes != nullptr) {
    const auto slope = V::Set(problem.slopes[HeadOf(problem, unit, row)]);
    const auto query = V::Set(static_cast<float>(QueryOf(problem, row) - QueryOf(problem, unit.first_row)));
    for (int64_t i = columns.begin; i < columns.end; i += V::kLanes)
      V::Store(scores + i, V::Fma(slope, V::Load(block.positions + i) - query, V::Load(scores + i)));
  }
  if (problem.mask.data != nullptr) {
    const Mask& mask = problem.mask;
    const int64_t from = seen.pinned > columns.begin ? columns.begin : seen.begin;
    const int64_t first = unit.batch * mask.batch + HeadOf(problem, unit, row) * mask.head +
                          QueryOf(problem, row) * mask.query + (block.first + from) * mask.key;
    ApplyMask<V>(mask, first, scores + from, seen.end - from);
  }
  HideUnseen(scores, columns, seen);
  return GreatestOf<V>(scores, columns);
}

constexpr float kLog2E = 1.44269504f;

// Replaces scores by e^(score - max), and returns their sum. The difference comes first: scores may be as large as
// floats are.
template <typename V>
INGOT_INLINE float Exponentiate(float* scores, Range columns, float max) {
  auto even = V::Set(0);
  auto odd = even;
  const auto base = V::Set(kLog2E);
  const auto shift = V::Set(max);
  for (int64_t i = columns.begin; i < columns.end; i += 2 * V::kLanes) {
    const auto a = simd::Exp2UpTo127<V>((V::Load(scores + i) - shift) * base);
    const auto b = simd::Exp2UpTo127<V>((V::Load(scores + i + V::kLanes) - shift) * base);
    V::Store(scores + i, a);
    V::Store(scores + i + V::kLanes, b);
    even = even + a;
    odd = odd + b;
  }
  return V::ReduceAdd(even + odd);
}

INGOT_INLINE bool HasNan(const float* scores, Range columns) {
  bool found = false;
  for (int64_t i = columns.begin; i < columns.end; ++i) found |= scores[i] != scores[i];
  return found;
}

// Where the scores were.
template <typename V>
struct InPlace {
  INGOT_INLINE float operator()(int64_t, float* scores, Range columns, float max) const {
    return Exponentiate<V>(scores, columns, max);
  }
};

// Makes `count` rows of products into weights e^(score - max), and updates the rows' max and sum; the factors are what
// their outputs have to be multiplied by. Returns false, and changes nothing, if all weights are 0. A row that saw no
// key has max -inf and sum 0: it is exponentiated as if its max were 0. What `write(row, scores, columns, max)` does
// with a row's scores is write its weights somewhere, and return their sum.
template <typename V, typename Write = InPlace<V>>
[[gnu::noinline]] bool UpdateRows(const Problem& problem, const Unit& unit, const Scratch& scratch, int64_t first_row,
                                  int64_t count, const Block& block, Range columns, Write write = {}) {
  float* max = scratch.max + first_row - unit.first_row;
  float* sum = scratch.sum + first_row - unit.first_row;
  float block_max[kMostBlockRows];
  bool all_zero = true;
  const Range rows = {first_row, first_row + count}, keys = {block.first, block.first + block.count};
  const bool finished = problem.softcap <= 0 && problem.slopes == nullptr &&
                        AreSeen(problem, unit, rows, block, columns) &&
                        AddsNothing<V>(problem, unit, first_row, count, keys);
  for (int64_t i = 0; i < count; ++i) {
    float* scores = scratch.scores + i * kBlockKeys;
    block_max[i] = finished ? GreatestOf<V>(scores, columns)
                            : FinishScores<V>(problem, unit, first_row + i, scores, block, columns);
    all_zero &= block_max[i] == kMinusInfinity || block_max[i] - max[i] < -88.0f;
  }
  for (int64_t i = 0; all_zero && i < count; ++i) all_zero = !HasNan(scratch.scores + i * kBlockKeys, columns);
  if (all_zero) return false;

  float old[RoundUp(kMostBlockRows, 16)];
  for (int64_t i = 0; i < count; ++i) {
    const float next = block_max[i] > max[i] ? block_max[i] : max[i];
    const float shift = next == kMinusInfinity ? 0 : next;
    old[i] = (max[i] - shift) * kLog2E;
    max[i] = next;
    block_max[i] = shift;
  }
  for (int64_t i = count; i < RoundUp(kMostBlockRows, 16); ++i) old[i] = kMinusInfinity;
  for (int64_t i = 0; i < count; i += V::kLanes) V::Store(old + i, simd::Exp2UpTo127<V>(V::Load(old + i)));
  for (int64_t i = 0; i < count; ++i) {
    sum[i] = sum[i] * old[i] + write(i, scratch.scores + i * kBlockKeys, columns, block_max[i]);
    scratch.factors[i] = old[i];
  }
  for (int64_t i = count; i < kMostBlockRows; ++i) scratch.factors[i] = 0;
  return true;
}

}  // namespace ingot::attention
