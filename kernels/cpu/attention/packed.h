// Many rows: each block of keys and values is packed into panels as wide as a tile, and the products are tiles that
// stay in registers.
#pragma once

#include "cpu/attention/rows.h"

namespace ingot::attention {

// The shape of a tile of products: kRows × kVectors vectors of sums, with room in the registers for a row of the second
// factor and an element of the first.
template <typename Vector, int kTileRows, int kTileVectors>
struct Tile {
  using V = Vector;
  static constexpr int kRows = kTileRows;
  static constexpr int kVectors = kTileVectors;
  static constexpr int kColumns = kVectors * V::kLanes;
  static_assert(kRows * kVectors + kVectors + 1 <= V::kRegisters);
  static_assert(kBlockRows % kRows == 0 && kBlockKeys % kColumns == 0 && kPadding % kColumns == 0 && kVectors % 2 == 0);
};

// sums += a b, for a of kRows rows that lie `stride` floats apart and a panel b of [depth, kColumns].
template <typename Tile>
INGOT_INLINE void MultiplyTile(const float* a, int64_t stride, const float* b, int64_t depth,
                               typename Tile::V::Float (&sums)[Tile::kRows][Tile::kVectors]) {
  using V = typename Tile::V;
  // Few iterations are predicted to the last one: 16 for a head of 64.
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; ++k) {
    typename V::Float row[Tile::kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < Tile::kVectors; ++v) row[v] = V::Load(b + k * Tile::kColumns + v * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Tile::kRows; ++r) {
      const auto element = V::Set(a[r * stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < Tile::kVectors; ++v) sums[r][v] = V::Fma(element, row[v], sums[r][v]);
    }
  }
}

// scores = queries × keys for one tile.
template <typename Tile>
[[gnu::noinline]] void ScoreTile(const float* queries, int64_t stride, const float* panel, int64_t size,
                                 float* scores) {
  using V = typename Tile::V;
  typename V::Float sums[Tile::kRows][Tile::kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < Tile::kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Tile::kVectors; ++v) sums[r][v] = V::Set(0);
  MultiplyTile<Tile>(queries, stride, panel, size, sums);
#pragma GCC unroll 16
  for (int r = 0; r < Tile::kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Tile::kVectors; ++v) V::Store(scores + r * kBlockKeys + v * V::kLanes, sums[r][v]);
}

// out = factors × out + weights × values for one tile.
template <typename Tile>
[[gnu::noinline]] void OutputTile(const float* weights, const float* panel, int64_t count, const float* factors,
                                  float* out, int64_t stride) {
  using V = typename Tile::V;
  typename V::Float sums[Tile::kRows][Tile::kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < Tile::kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Tile::kVectors; ++v)
      sums[r][v] = V::Load(out + r * stride + v * V::kLanes) * V::Set(factors[r]);
  MultiplyTile<Tile>(weights, kBlockKeys, panel, count, sums);
#pragma GCC unroll 16
  for (int r = 0; r < Tile::kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < Tile::kVectors; ++v) V::Store(out + r * stride + v * V::kLanes, sums[r][v]);
}

// Packs keys [first, first + count) into panels [size, kColumns]; columns without a key are 0.
template <typename Tile>
[[gnu::noinline]] void PackKeys(const Problem& problem, const Unit& unit, const Scratch& scratch, int64_t first,
                                int64_t count) {
  using V = typename Tile::V;
  constexpr int kTile = V::kTile;
  const int64_t size = problem.size;
  const Tensor& k = problem.k;
  const bool in_place = k.element == Element::kFloat && k.feature == 1;
  const bool transposed = k.element == Element::kFloat && k.sequence == 1;
  for (int64_t key = 0; key < RoundUp(count, Tile::kColumns); key += kTile) {
    WithType(k.element, [&]<typename T>(T*) __attribute__((always_inline)) {
      for (int64_t i = key + kTile; i < Least(key + 2 * kTile, count) && k.feature == 1; ++i)
        Fetch(RowOf<T>(k, unit.batch, first + i, unit.kv_head), size);
    });
    float* to = scratch.keys + key / Tile::kColumns * size * Tile::kColumns + key % Tile::kColumns;
    if (transposed && key + kTile <= count) {
      const float* from = RowOf<float>(k, unit.batch, first + key, unit.kv_head);
      for (int64_t d = 0; d < size; ++d)
        std::memcpy(to + d * Tile::kColumns, from + d * k.feature, kTile * sizeof(float));
      continue;
    }
    const float* rows = nullptr;
    int64_t stride = k.sequence;
    if (in_place && key + kTile <= count) {
      rows = RowOf<float>(k, unit.batch, first + key, unit.kv_head);
    } else {
      stride = kMostSize;
      for (int64_t i = 0; i < kTile; ++i) {
        float* staged = scratch.staging + i * stride;
        const bool exists = key + i < count;
        const float* row = exists ? FloatRow<V>(k, unit.batch, first + key + i, unit.kv_head, size, staged) : nullptr;
        if (!exists) std::memset(staged, 0, static_cast<size_t>(size) * sizeof(float));
        if (exists && row != staged) std::memcpy(staged, row, static_cast<size_t>(size) * sizeof(float));
      }
      rows = scratch.staging;
    }
    int64_t d = 0;
    for (; d + kTile <= size; d += kTile) V::TransposeTile(rows + d, stride, to + d * Tile::kColumns, Tile::kColumns);
    for (; d < size; ++d)
      for (int i = 0; i < kTile; ++i) to[d * Tile::kColumns + i] = rows[i * stride + d];
  }
}

// Packs values [first, first + count) into panels [kBlockKeys, kColumns]; columns beyond the size are 0.
template <typename Tile>
[[gnu::noinline]] void PackValues(const Problem& problem, const Unit& unit, const Scratch& scratch, int64_t first,
                                  int64_t count) {
  using V = typename Tile::V;
  const int64_t size = problem.value_size;
  for (int64_t key = 0; key < count; ++key) {
    if (key + kFetchedRows < count) {
      WithType(problem.v.element, [&]<typename T>(T*) __attribute__((always_inline)) {
        Fetch(RowOf<T>(problem.v, unit.batch, first + key + kFetchedRows, unit.kv_head), size);
      });
    }
    const float* row = FloatRow<V>(problem.v, unit.batch, first + key, unit.kv_head, size, scratch.staging);
    for (int64_t column = 0; column < size; column += Tile::kColumns) {
      float* to = scratch.values + column * kBlockKeys + key * Tile::kColumns;
#pragma GCC unroll 8
      for (int v = 0; v < Tile::kVectors; ++v, to += V::kLanes) {
        const int64_t left = size - column - v * V::kLanes;
        const float* from = row + column + v * V::kLanes;
        V::Store(to, left >= V::kLanes ? V::Load(from) : left > 0 ? V::LoadFirst(from, left) : V::Set(0));
      }
    }
  }
}

template <typename Tile>
void RunPacked(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  const int64_t size = problem.size;
  const int64_t query_stride = RoundUp(size, kPadding);
  const int64_t out_stride = RoundUp(problem.value_size, kPadding);
  const int64_t begin = VisibleKeys(problem, unit, unit.first_row).begin;
  const int64_t end = VisibleKeys(problem, unit, unit.end_row - 1).end;
  for (int64_t first = begin; first < end; first += kBlockKeys) {
    const int64_t keys = Least(kBlockKeys, end - first);
    PackKeys<Tile>(problem, unit, scratch, first, keys);
    PackValues<Tile>(problem, unit, scratch, first, keys);
    for (int64_t row = unit.first_row; row < unit.end_row; row += kBlockRows) {
      const int64_t rows = Least(kBlockRows, unit.end_row - row);
      const int64_t seen_begin = Greatest(VisibleKeys(problem, unit, row).begin - first, 0);
      const int64_t seen_end = Least(VisibleKeys(problem, unit, row + rows - 1).end - first, keys);
      if (seen_begin >= seen_end) continue;
      const Range columns = {seen_begin / Tile::kColumns * Tile::kColumns, RoundUp(seen_end, Tile::kColumns)};
      const float* queries = scratch.queries + (row - unit.first_row) * query_stride;
      for (int64_t column = columns.begin; column < columns.end; column += Tile::kColumns)
        for (int64_t r = 0; r < rows; r += Tile::kRows)
          ScoreTile<Tile>(queries + r * query_stride, query_stride, scratch.keys + column * size, size,
                          scratch.scores + r * kBlockKeys + column);
      if (!UpdateRows<typename Tile::V>(problem, unit, scratch, row, rows, first, columns)) continue;
      float* out = scratch.out + (row - unit.first_row) * out_stride;
      for (int64_t column = 0; column < problem.value_size; column += Tile::kColumns)
        for (int64_t r = 0; r < rows; r += Tile::kRows)
          OutputTile<Tile>(scratch.scores + r * kBlockKeys + seen_begin,
                           scratch.values + column * kBlockKeys + seen_begin * Tile::kColumns, seen_end - seen_begin,
                           scratch.factors + r, out + r * out_stride + column, out_stride);
    }
  }
}

}  // namespace ingot::attention
