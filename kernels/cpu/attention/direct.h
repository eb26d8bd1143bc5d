// Few rows, as in generation: keys and values are read once, as they lie, and memory bounds the time.
#pragma once

#include "cpu/attention/paired.h"

namespace ingot::attention {

// Sums at once: as many as leave half of the registers for what they are sums of, so that multiply-adds and not loads
// bound the time.
template <typename V>
constexpr int kSums = V::kRegisters / 2;

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
    if (row < count) attention::Fetch<2>(rows + places[row] + begin, Least(end, size) - begin);
  }
};

// scores[r][i] = queries[r] · key i for kRows rows and `count` keys; key i lies at keys + places[i]. Meanwhile the rows
// of values that follow are fetched.
template <typename V, int kRows, typename T>
INGOT_INLINE void ScoreRows(const float* queries, int64_t query_stride, const T* keys, const int64_t* places,
                            int64_t size, int64_t count, float* scores, const Ahead<T>& ahead) {
  const auto multiply = [&]<int kKeys>(int64_t key) __attribute__((always_inline)) {
    for (int64_t i = key; i < key + kKeys; ++i) ahead.Fetch(i);
    typename V::Float sums[kRows * kKeys];
#pragma GCC unroll 16
    for (int s = 0; s < kRows * kKeys; ++s) sums[s] = V::Set(0);
    const T* from[kKeys];
#pragma GCC unroll 16
    for (int i = 0; i < kKeys; ++i) from[i] = keys + places[key + i];
    // kVectors vectors of each key from element d on.
    const auto step = [&]<int kVectors>(int64_t d, auto&& load) __attribute__((always_inline)) {
      typename V::Float query[kVectors][kRows];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v)
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) query[v][r] = V::Load(queries + r * query_stride + d + v * V::kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kKeys; ++i) {
        typename V::Float elements[kVectors];
        load(from[i] + d, elements);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v)
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) sums[r * kKeys + i] = V::Fma(query[v][r], elements[v], sums[r * kKeys + i]);
      }
    };
    int64_t d = 0;
    for (; d < PairedSize<V, T>(size); d += 2 * V::kLanes) step.template operator()<2>(d, kLoadPair<V, T>);
    for (; d + V::kLanes <= size; d += V::kLanes) step.template operator()<1>(d, kLoadOne<V, T>);
    if (d < size) {
      step.template operator()<1>(d, [&](const T* at, typename V::Float(&to)[1])
                                         __attribute__((always_inline)) { to[0] = V::LoadFirst(at, size - d); });
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto* row = sums + r * kKeys;
      float* to = scores + r * kBlockKeys + key;
      int i = 0;
#pragma GCC unroll 8
      for (; i + 4 <= kKeys; i += 4) V::StoreSums(to + i, row[i], row[i + 1], row[i + 2], row[i + 3]);
#pragma GCC unroll 8
      for (; i < kKeys; ++i) to[i] = V::ReduceAdd(row[i]);
    }
  };
  constexpr int kKeys = kSums<V> / kRows;
  int64_t key = 0;
  for (; key + kKeys <= count; key += kKeys) multiply.template operator()<kKeys>(key);
  for (; key < count; ++key) multiply.template operator()<1>(key);
}

// out[r] = factors[r] out[r] + weights[r] values for kRows rows and `count` values; value i lies at values + places[i].
// Meanwhile the rows of keys that follow are fetched.
template <typename V, int kRows, typename T>
INGOT_INLINE void OutputRows(const float* weights, const T* values, const int64_t* places, int64_t size, int64_t count,
                             const float* factors, float* out, int64_t out_stride, const Ahead<T>& ahead) {
  // kVectors vectors from a column on, of which `load` loads kLoaded at once.
  const auto multiply = [&]<int kVectors, int kLoaded>(int64_t column, auto&& load) __attribute__((always_inline)) {
    typename V::Float sums[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        sums[r][v] = V::Load(out + r * out_stride + column + v * V::kLanes) * V::Set(factors[r]);
    for (int64_t i = 0; i < count; ++i) {
      const T* from = values + places[i] + column;
      ahead.Fetch(i, column, column + kVectors * V::kLanes);
      typename V::Float weight[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) weight[r] = V::Set(weights[r * kBlockKeys + i]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; v += kLoaded) {
        typename V::Float elements[kLoaded];
        load(from + v * V::kLanes, elements);
#pragma GCC unroll 2
        for (int e = 0; e < kLoaded; ++e)
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) sums[r][v + e] = V::Fma(weight[r], elements[e], sums[r][v + e]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) V::Store(out + r * out_stride + column + v * V::kLanes, sums[r][v]);
  };
  constexpr int kVectors = kSums<V> / kRows < 8 ? kSums<V> / kRows : 8;
  const int64_t paired = PairedSize<V, T>(size);
  int64_t column = 0;
  for (; column + kVectors * V::kLanes <= paired; column += kVectors * V::kLanes)
    multiply.template operator()<kVectors, 2>(column, kLoadPair<V, T>);
  for (; column < paired; column += 2 * V::kLanes) multiply.template operator()<2, 2>(column, kLoadPair<V, T>);
  for (; column + kVectors * V::kLanes <= size; column += kVectors * V::kLanes)
    multiply.template operator()<kVectors, 1>(column, kLoadOne<V, T>);
  for (; column + V::kLanes <= size; column += V::kLanes) multiply.template operator()<1, 1>(column, kLoadOne<V, T>);
  if (column < size) {
    multiply.template operator()<1, 1>(column,
                                       [&](const T* at, typename V::Float(&to)[1])
                                           __attribute__((always_inline)) { to[0] = V::LoadFirst(at, size - column); });
  }
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

// Keys at a time: at most 32 KiB of a head's values, which are read column by column from the nearest caches, and 128
// KiB of all heads', which with as much of the keys that follow stay in a second-level cache of 512 KiB.
INGOT_INLINE int64_t KeysAtOnce(const Unit& unit, int64_t row_bytes) {
  const int64_t most = Least(32768, Greatest(131072 / unit.heads, 32 * row_bytes)) / row_bytes;
  return Greatest(16, Least(kFewKeys, most / 16 * 16));
}

// Calls body(block, next) for each block of keys; behind the last one there is a next one of no keys. Returns whether
// there are any.
template <typename V, typename Body>
INGOT_INLINE bool ForBlocksAhead(const Problem& problem, const Unit& unit, int64_t most, Body&& body) {
  Block blocks[2];
  int64_t number = 0;
  ForBlocks(problem, unit, most, [&](int64_t first, int64_t keys) {
    Block& block = blocks[number % 2];
    Locate<V>(problem, unit, first, keys, block);
    if (number++ > 0) body(blocks[number % 2], block);
  });
  if (number == 0) return false;
  blocks[number % 2].count = 0;
  body(blocks[(number - 1) % 2], blocks[number % 2]);
  return true;
}

// K and V are of type T, with the elements of a row side by side.
template <typename V, typename T>
[[gnu::noinline]] void RunDirect(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  const int64_t rows = unit.end_row - unit.first_row;
  const int64_t query_stride = RoundUp(problem.size, kPadding);
  const int64_t out_stride = RoundUp(problem.value_size, kPadding);
  constexpr bool kScaled = sizeof(T) == 1;
  const auto rows_of = [&](const Tensor& tensor, const Unit& part) __attribute__((always_inline)) {
    return static_cast<const T*>(tensor.data) + (part.kv_head - unit.kv_head) * tensor.head;
  };
  // Heads are the inner loop, so that keys, and then values, are read about as they lie.
  const auto run = [&](Block& block, const Block& next) {
    const int64_t keys = block.count;
    bool seen[kMostUnitHeads];
    ForHeads(problem, unit, scratch, [&](const Unit& part, const Scratch& own) __attribute__((always_inline)) {
      const float* queries = QueriesOf(problem, own, block.first);
      const Ahead<T> ahead{rows_of(problem.v, part), block.v, problem.value_size, keys};
      ForRows(rows, [&]<int kRows>(int64_t row) __attribute__((always_inline)) {
        ScoreRows<V, kRows>(queries + row * query_stride, query_stride, rows_of(problem.k, part), block.k, problem.size,
                            keys, own.scores + row * kBlockKeys, ahead);
      });
      if constexpr (kScaled) {
        ReadScales<V>(problem, part, block);
        ScaleKeys<V>(own.scores, rows, block.k_scales, keys);
      }
      seen[part.kv_head - unit.kv_head] =
          UpdateRows<V>(problem, part, own, unit.first_row, rows, block, {0, RoundUp(keys, 2 * V::kLanes)});
      if constexpr (kScaled) ScaleKeys<V>(own.scores, rows, block.v_scales, keys);
    });
    ForHeads(problem, unit, scratch, [&](const Unit& part, const Scratch& own) __attribute__((always_inline)) {
      if (!seen[part.kv_head - unit.kv_head]) return;
      Ahead<T> ahead{rows_of(problem.k, part), next.k, problem.size, next.count};
      ForRows(rows, [&]<int kRows>(int64_t row) __attribute__((always_inline)) {
        OutputRows<V, kRows>(own.scores + row * kBlockKeys, rows_of(problem.v, part), block.v, problem.value_size, keys,
                             own.factors + row, own.out + row * out_stride, out_stride, ahead);
        ahead.count = 0;  // once is enough
      });
    });
  };
  ForHeads(problem, unit, scratch, [&](const Unit&, const Scratch& own) __attribute__((always_inline)) {
    PairRows<V, T>(own.queries, rows, query_stride, problem.size);
    if (own.sink_q != own.queries) PairRows<V, T>(own.sink_q, rows, query_stride, problem.size);
  });
  const int64_t most = KeysAtOnce(unit, problem.value_size * static_cast<int64_t>(sizeof(T)));
  if (!ForBlocksAhead<V>(problem, unit, most, run)) return;
  ForHeads(problem, unit, scratch, [&](const Unit&, const Scratch& own) __attribute__((always_inline)) {
    UnpairRows<V, T>(own.out, rows, out_stride, problem.value_size);
  });
}

}  // namespace ingot::attention
