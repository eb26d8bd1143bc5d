// Few rows, as in generation: keys and values are read once, as they lie, and memory bounds the time.
#pragma once

#include "cpu/attention/rows.h"

namespace ingot::attention {

// Eight sums at once keep two multiply-add units of latency 4 busy.
constexpr int kChains = 8;

// Keys at a time: with four rows as many as the registers hold beside a vector of each key and one of a row, so that
// multiply-adds and not loads bound the time.
template <typename V, int kRows>
constexpr int kScoredKeys = kRows == 4 ? (V::kRegisters - 1) / (kRows + 1) : kChains / kRows;

// Rows that will be read soon. A core's own prefetcher follows few streams, and not across pages.
template <typename T>
struct Ahead {
  const T* rows;
  const int64_t* places;
  int64_t size;
  int64_t count;

  INGOT_INLINE void Fetch(int64_t row) const { Fetch(row, 0, size); }
  // Elements [begin, end) of a row.
  INGOT_INLINE void Fetch(int64_t row, int64_t begin, int64_t end) const {
    if (row < count) attention::Fetch(rows + places[row] + begin, Least(end, size) - begin);
  }
};

// scores[r][i] = queries[r] · key i for kRows rows and `count` keys, kScoredKeys of them at once; key i lies at
// keys + places[i]. Meanwhile the rows of values that follow are fetched.
template <typename V, int kRows, typename T>
INGOT_INLINE void ScoreRows(const float* queries, int64_t query_stride, const T* keys, const int64_t* places,
                            int64_t size, int64_t count, float* scores, const Ahead<T>& ahead) {
  const auto multiply = [&]<int kKeys>(int64_t key) __attribute__((always_inline)) {
    for (int64_t i = key; i < key + kKeys; ++i) ahead.Fetch(i);
    typename V::Float sums[kRows][kKeys];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < kKeys; ++i) sums[r][i] = V::Set(0);
    const T* from[kKeys];
#pragma GCC unroll 8
    for (int i = 0; i < kKeys; ++i) from[i] = keys + places[key + i];
    const auto step = [&](int64_t d, auto&& load) __attribute__((always_inline)) {
      typename V::Float elements[kKeys];
#pragma GCC unroll 8
      for (int i = 0; i < kKeys; ++i) elements[i] = load(from[i] + d);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto query = V::Load(queries + r * query_stride + d);
#pragma GCC unroll 8
        for (int i = 0; i < kKeys; ++i) sums[r][i] = V::Fma(query, elements[i], sums[r][i]);
      }
    };
    int64_t d = 0;
    for (; d + V::kLanes <= size; d += V::kLanes)
      step(d, [](const T* at) __attribute__((always_inline)) { return V::Load(at); });
    if (d < size) step(d, [&](const T* at) __attribute__((always_inline)) { return V::LoadFirst(at, size - d); });
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int i = 0; i < kKeys; ++i) scores[r * kBlockKeys + key + i] = V::ReduceAdd(sums[r][i]);
  };
  constexpr int kKeys = kScoredKeys<V, kRows>;
  int64_t key = 0;
  for (; key + kKeys <= count; key += kKeys) multiply.template operator()<kKeys>(key);
  for (; key < count; ++key) multiply.template operator()<1>(key);
}

// out[r] = factors[r] out[r] + weights[r] values for kRows rows and `count` values; value i lies at values + places[i].
// Meanwhile the rows of keys that follow are fetched.
template <typename V, int kRows, typename T>
INGOT_INLINE void OutputRows(const float* weights, const T* values, const int64_t* places, int64_t size, int64_t count,
                             const float* factors, float* out, int64_t out_stride, const Ahead<T>& ahead) {
  const auto multiply = [&]<int kVectors>(int64_t column, auto&& load) __attribute__((always_inline)) {
    typename V::Float sums[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] = V::Load(out + r * out_stride + column + v * V::kLanes) * V::Set(factors[r]);
    for (int64_t i = 0; i < count; ++i) {
      const T* from = values + places[i] + column;
      ahead.Fetch(i, column, column + kVectors * V::kLanes);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const auto element = load(from + v * V::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sums[r][v] = V::Fma(V::Set(weights[r * kBlockKeys + i]), element, sums[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) V::Store(out + r * out_stride + column + v * V::kLanes, sums[r][v]);
  };
  const auto whole = [](const T* at) __attribute__((always_inline)) { return V::Load(at); };
  constexpr int kVectors = kChains / kRows;
  int64_t column = 0;
  for (; column + kVectors * V::kLanes <= size; column += kVectors * V::kLanes)
    multiply.template operator()<kVectors>(column, whole);
  for (; column + V::kLanes <= size; column += V::kLanes) multiply.template operator()<1>(column, whole);
  if (column < size)
    multiply.template operator()<1>(
        column, [&](const T* at) __attribute__((always_inline)) { return V::LoadFirst(at, size - column); });
}

// Calls body.operator()<n>(first) for n of 4, 2 or 1 rows at a time.
template <typename Body>
INGOT_INLINE void ForRows(int64_t rows, Body&& body) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) body.template operator()<4>(row);
  if (row + 2 <= rows) {
    body.template operator()<2>(row);
    row += 2;
  }
  if (row < rows) body.template operator()<1>(row);
}

// Multiplies `count` rows of scores or weights by the scales of their keys or values.
template <typename V>
INGOT_INLINE void ScaleKeys(float* scores, int64_t count, const float* scales, int64_t keys) {
  for (int64_t r = 0; r < count; ++r, scores += kBlockKeys)
    for (int64_t i = 0; i < keys; i += V::kLanes) V::Store(scores + i, V::Load(scores + i) * V::Load(scales + i));
}

// K and V are of type T, with the elements of a row side by side.
template <typename V, typename T>
[[gnu::noinline]] void RunDirect(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  const int64_t rows = unit.end_row - unit.first_row;
  const int64_t query_stride = RoundUp(problem.size, kPadding);
  const int64_t out_stride = RoundUp(problem.value_size, kPadding);
  const T* k = static_cast<const T*>(problem.k.data);
  const T* v = static_cast<const T*>(problem.v.data);
  constexpr bool kScaled = sizeof(T) == 1;
  // As many keys as have 32 KiB of values: these are read column by column from the nearest caches. A quarter of that
  // and four times as much were slower.
  const int64_t most = 32768 / (problem.value_size * static_cast<int64_t>(sizeof(T)) + 1);
  const auto run = [&](const Block& block, const Block& next) {
    const int64_t keys = block.count;
    const float* queries = QueriesOf(problem, scratch, block.first);
    const Ahead<T> ahead{v, block.v, problem.value_size, keys};
    Ahead<T> next_keys{k, next.k, problem.size, next.count};
    ForRows(rows, [&]<int kRows>(int64_t row) __attribute__((always_inline)) {
      ScoreRows<V, kRows>(queries + row * query_stride, query_stride, k, block.k, problem.size, keys,
                          scratch.scores + row * kBlockKeys, ahead);
    });
    if constexpr (kScaled) ScaleKeys<V>(scratch.scores, rows, block.k_scales, keys);
    if (!UpdateRows<V>(problem, unit, scratch, unit.first_row, rows, block, {0, RoundUp(keys, 2 * V::kLanes)})) return;
    if constexpr (kScaled) ScaleKeys<V>(scratch.scores, rows, block.v_scales, keys);
    ForRows(rows, [&]<int kRows>(int64_t row) __attribute__((always_inline)) {
      OutputRows<V, kRows>(scratch.scores + row * kBlockKeys, v, block.v, problem.value_size, keys,
                           scratch.factors + row, scratch.out + row * out_stride, out_stride, next_keys);
      next_keys.count = 0;  // once is enough
    });
  };
  Block blocks[2];
  blocks[0].count = blocks[1].count = 0;
  int64_t number = 0;
  ForBlocks(problem, unit, Greatest(16, Least(kBlockKeys, most / 16 * 16)), [&](int64_t first, int64_t keys) {
    Block& block = blocks[number % 2];
    Locate<V>(problem, unit, first, keys, block);
    if (number++ > 0) run(blocks[number % 2], block);
  });
  if (number == 0) return;
  Block& last = blocks[(number - 1) % 2];
  blocks[number % 2].count = 0;
  run(last, blocks[number % 2]);
}

}  // namespace ingot::attention
