// Which keys a unit's rows see, and where these lie.
#pragma once

#include "cpu/attention/unit.h"
#include "simd/vector_portable.h"

namespace ingot::attention {

struct Range {
  int64_t begin;
  int64_t end;
};

INGOT_INLINE int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
INGOT_INLINE int64_t Greatest(int64_t a, int64_t b) { return a > b ? a : b; }
INGOT_INLINE constexpr int64_t RoundUp(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

INGOT_INLINE int64_t QueryOf(const Problem& problem, int64_t row) {
  return problem.group == 1 ? row : row / problem.group;  // a division takes as long as a vector of exponentials
}

INGOT_INLINE int64_t HeadOf(const Problem& problem, const Unit& unit, int64_t row) {
  return unit.kv_head * problem.group + (problem.group == 1 ? 0 : row % problem.group);
}

// The keys of the unit that a row sees, besides those of the first problem.sink_keys that come before `end`. Both ends
// grow with the row.
INGOT_INLINE Range VisibleKeys(const Problem& problem, const Unit& unit, int64_t row) {
  const Sequence& sequence = problem.sequences[unit.batch];
  const int64_t position = QueryOf(problem, row) + sequence.query;
  const int64_t right = position + problem.right + 1;
  const int64_t left = position - problem.left - sequence.shift;
  const int64_t seen_end = Greatest(Least(problem.sink_keys, right), right - sequence.shift);
  const int64_t end = Greatest(unit.first_key, Least(Least(sequence.length, unit.end_key), seen_end));
  return {Least(left <= problem.sink_keys ? unit.first_key : Greatest(unit.first_key, left), end), end};
}

// Calls body(first, count) for the keys that any of the unit's rows sees, at most `most` at a time. Pinned keys that
// have queries of their own are in blocks of their own.
template <typename Body>
INGOT_INLINE void ForBlocks(const Problem& problem, const Unit& unit, int64_t most, Body&& body) {
  const int64_t begin = VisibleKeys(problem, unit, unit.first_row).begin;
  const int64_t end = VisibleKeys(problem, unit, unit.end_row - 1).end;
  const int64_t pinned = Least(problem.sink_keys, end);
  const bool apart = begin >= pinned || problem.sink_q.data != nullptr;
  const Range ranges[] = {{unit.first_key, apart ? pinned : unit.first_key},
                          {apart ? Greatest(begin, pinned) : begin, end}};
  for (const Range& range : ranges)
    for (int64_t first = range.begin; first < range.end; first += most) body(first, Least(most, range.end - first));
}

// Some keys one after another, and for each where it lies: elements from the start of the tensors.
struct Block {
  int64_t first;
  int64_t count;
  int64_t k[kBlockKeys];
  int64_t v[kBlockKeys];
  float k_scales[kBlockKeys];  // of int8
  float v_scales[kBlockKeys];
  float positions[kBlockKeys];  // less that of the unit's first query, if there are slopes
};

// Whether kPlaces places lie `distance` apart.
template <int kPlaces>
INGOT_INLINE bool Even(const int64_t* places, int64_t distance) {
  int64_t off = 0;
#pragma GCC unroll 8
  for (int i = 1; i < kPlaces; ++i) off |= places[i] - places[i - 1] - distance;
  return off == 0;
}

// Keys that lie side by side, from one of them on.
struct Stretch {
  int64_t batch;  // of the tensors: a page if there are pages
  int64_t slot;
  int64_t count;
};

INGOT_INLINE Stretch StretchFrom(const Problem& problem, const Unit& unit, int64_t key) {
  if (problem.table != nullptr) {
    const int64_t slot = key % problem.page_size;
    return {problem.table[unit.batch * problem.table_row + key / problem.page_size], slot, problem.page_size - slot};
  }
  if (key < problem.sink_keys) return {unit.batch, key, problem.sink_keys - key};
  const int64_t slot = key + problem.sequences[unit.batch].turn;
  const int64_t round = slot < problem.keys ? 0 : problem.keys - problem.sink_keys;
  return {unit.batch, slot - round, problem.keys + round - slot};
}

// Where the stretch starts: elements from the start of the tensor.
INGOT_INLINE int64_t PlaceOf(const Tensor& tensor, const Stretch& stretch, const Unit& unit) {
  return stretch.batch * tensor.batch + stretch.slot * tensor.sequence + unit.kv_head * tensor.head;
}

// Gathers the scales of the block's keys and values, if they have scales.
template <typename V>
[[gnu::noinline]] void ReadScales(const Problem& problem, const Unit& unit, Block& block) {
  if (problem.k_scales.data == nullptr) return;
  for (int64_t i = 0; i < block.count;) {
    const Stretch stretch = StretchFrom(problem, unit, block.first + i);
    const int64_t length = Least(stretch.count, block.count - i);
    const auto gather = [&](const Tensor& tensor, float* to) __attribute__((always_inline)) {
      const float* from = static_cast<const float*>(tensor.data) + PlaceOf(tensor, stretch, unit);
      for (int64_t j = 0; j < length; ++j) to[j] = from[j * tensor.sequence];
    };
    gather(problem.k_scales, block.k_scales + i);
    gather(problem.v_scales, block.v_scales + i);
    i += length;
  }
}

template <typename V>
[[gnu::noinline]] void Locate(const Problem& problem, const Unit& unit, int64_t first, int64_t count, Block& block) {
  block.first = first;
  block.count = count;
  for (int64_t i = 0; i < count;) {
    const Stretch stretch = StretchFrom(problem, unit, first + i);
    const int64_t length = Least(stretch.count, count - i);
    const auto list = [&](const Tensor& tensor, int64_t* to) __attribute__((always_inline)) {
      const int64_t start = PlaceOf(tensor, stretch, unit);
      for (int64_t j = 0; j < length; ++j) to[j] = start + j * tensor.sequence;
    };
    list(problem.k, block.k + i);
    list(problem.v, block.v + i);
    i += length;
  }
  if (problem.slopes == nullptr) return;
  const Sequence& sequence = problem.sequences[unit.batch];
  const int64_t query = sequence.query + QueryOf(problem, unit.first_row);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t position = first + i + (first + i < problem.sink_keys ? 0 : sequence.shift);
    block.positions[i] = static_cast<float>(position - query);
  }
}

}  // namespace ingot::attention
