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
  static_assert(kBlockRows % kRows == 0 && kBlockKeys % kColumns == 0 && kVectors % 2 == 0);
};

// The tiles of an instruction set: wide ones, and narrow ones for what is left of the columns of values, if that fits.
// Both are one where padding is a multiple of the columns.
template <typename WideTile, typename NarrowTile = WideTile>
struct Tiles {
  using V = typename WideTile::V;
  using Wide = WideTile;
  using Narrow = NarrowTile;
  static_assert(kPadding % Narrow::kColumns == 0 && Narrow::kRows % Wide::kRows == 0);
  static_assert(Wide::kColumns <= kPadding || Wide::kColumns == kPadding + Narrow::kColumns);

  // Of the panel of values that starts at a column.
  INGOT_INLINE static int64_t ColumnsFrom(int64_t column, int64_t size) {
    return size - column > Narrow::kColumns ? Wide::kColumns : Narrow::kColumns;
  }
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

// Packs the block's keys into panels [size, kColumns]; columns without a key are 0.
template <typename Tile>
[[gnu::noinline]] void PackKeys(const Problem& problem, const Scratch& scratch, const Block& block) {
  using V = typename Tile::V;
  constexpr int kTile = V::kTile;
  const int64_t size = problem.size;
  const int64_t count = block.count;
  const Tensor& k = problem.k;
  const bool in_place = k.element == Element::kFloat && k.feature == 1;
  const bool transposed = k.element == Element::kFloat && k.sequence == 1;
  for (int64_t key = 0; key < RoundUp(count, Tile::kColumns); key += kTile) {
    WithCacheType(k.element, [&]<typename T>(T*) __attribute__((always_inline)) {
      for (int64_t i = key + kTile; i < Least(key + 2 * kTile, count) && k.feature == 1; ++i)
        Fetch(static_cast<const T*>(k.data) + block.k[i], size);
    });
    float* to = scratch.keys + key / Tile::kColumns * size * Tile::kColumns + key % Tile::kColumns;
    const bool even = (in_place || transposed) && key + kTile <= count && Even<kTile>(block.k + key, k.sequence);
    if (transposed && even) {
      const float* from = static_cast<const float*>(k.data) + block.k[key];
      for (int64_t d = 0; d < size; ++d)
        std::memcpy(to + d * Tile::kColumns, from + d * k.feature, kTile * sizeof(float));
      continue;
    }
    const float* rows = nullptr;
    int64_t stride = k.sequence;
    if (in_place && even) {
      rows = static_cast<const float*>(k.data) + block.k[key];
    } else {
      stride = kMostSize;
      for (int64_t i = 0; i < kTile; ++i) {
        float* staged = scratch.staging + i * stride;
        const bool exists = key + i < count;
        const float scale = exists && k.element == Element::kInt8 ? block.k_scales[key + i] : 1;
        const float* row = exists ? FloatRow<V>(k, block.k[key + i], size, scale, staged) : nullptr;
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

// Packs the block's values into panels [kBlockKeys, columns]; columns beyond the size are 0.
template <typename Tiles>
[[gnu::noinline]] void PackValues(const Problem& problem, const Scratch& scratch, const Block& block) {
  using V = typename Tiles::V;
  using Wide = typename Tiles::Wide;
  const int64_t size = problem.value_size;
  const int64_t count = block.count;
  const Tensor& values = problem.v;
  for (int64_t key = 0; key < count; ++key) {
    if (key + kFetchedRows < count) {
      WithCacheType(values.element, [&]<typename T>(T*) __attribute__((always_inline)) {
        Fetch(static_cast<const T*>(values.data) + block.v[key + kFetchedRows], size);
      });
    }
    const float scale = values.element == Element::kInt8 ? block.v_scales[key] : 1;
    const float* row = FloatRow<V>(values, block.v[key], size, scale, scratch.staging);
    int64_t column = 0;
    for (; column + Wide::kColumns <= size; column += Wide::kColumns) {
      float* to = scratch.values + column * kBlockKeys + key * Wide::kColumns;
#pragma GCC unroll 8
      for (int v = 0; v < Wide::kVectors; ++v) V::Store(to + v * V::kLanes, V::Load(row + column + v * V::kLanes));
    }
    if (column < size) {
      const int64_t columns = Tiles::ColumnsFrom(column, size);
      float* to = scratch.values + column * kBlockKeys + key * columns;
      for (int64_t v = 0; v < columns / V::kLanes; ++v, to += V::kLanes) {
        const int64_t left = size - column - v * V::kLanes;
        const float* from = row + column + v * V::kLanes;
        V::Store(to, left >= V::kLanes ? V::Load(from) : left > 0 ? V::LoadFirst(from, left) : V::Set(0));
      }
    }
  }
}

template <typename Tiles>
void RunPacked(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  using Tile = typename Tiles::Wide;
  const int64_t size = problem.size;
  const int64_t query_stride = RoundUp(size, kPadding);
  const int64_t out_stride = RoundUp(problem.value_size, kPadding);
  Block block;
  const int64_t fit = kPackedBytes / ((size + problem.value_size) * static_cast<int64_t>(sizeof(float)));
  const int64_t most = Least(kBlockKeys, Greatest(fit / kPadding * kPadding, kFewKeys));
  ForBlocks(problem, unit, most, [&](int64_t first, int64_t keys) {
    Locate<typename Tile::V>(problem, unit, first, keys, block);
    ReadScales<typename Tile::V>(problem, unit, block);
    PackKeys<Tile>(problem, scratch, block);
    PackValues<Tiles>(problem, scratch, block);
    for (int64_t row = unit.first_row; row < unit.end_row; row += kBlockRows) {
      const int64_t rows = Least(kBlockRows, unit.end_row - row);
      const int64_t window_begin = Greatest(VisibleKeys(problem, unit, row).begin - first, 0);
      const int64_t seen_begin = first < problem.sink_keys ? 0 : window_begin;
      int64_t seen_end[kBlockRows / Tile::kRows];  // of each tile: it grows from row to row
      for (int64_t r = 0; r < rows; r += Tile::kRows) {
        const int64_t last = row + Least(r + Tile::kRows, rows) - 1;
        seen_end[r / Tile::kRows] = Least(VisibleKeys(problem, unit, last).end - first, keys);
      }
      const int64_t end = seen_end[(rows - 1) / Tile::kRows];
      if (seen_begin >= end || AreMaskedOut<typename Tile::V>(problem, unit, scratch, row, rows, {first, first + keys}))
        continue;
      const Range columns = {seen_begin / Tile::kColumns * Tile::kColumns, RoundUp(end, Tile::kColumns)};
      const float* queries = QueriesOf(problem, scratch, first) + (row - unit.first_row) * query_stride;
      for (int64_t column = columns.begin; column < columns.end; column += Tile::kColumns)
        for (int64_t r = 0; r < rows; r += Tile::kRows) {
          if (column >= seen_end[r / Tile::kRows]) continue;
          ScoreTile<Tile>(queries + r * query_stride, query_stride, scratch.keys + column * size, size,
                          scratch.scores + r * kBlockKeys + column);
        }
      if (!UpdateRows<typename Tile::V>(problem, unit, scratch, row, rows, block, columns)) continue;
      float* out = scratch.out + (row - unit.first_row) * out_stride;
      const auto output = [&]<typename T>(int64_t column) __attribute__((always_inline)) {
        for (int64_t r = 0; r < rows; r += T::kRows) {
          const int64_t count = seen_end[(Least(r + T::kRows, rows) - 1) / Tile::kRows] - seen_begin;
          OutputTile<T>(scratch.scores + r * kBlockKeys + seen_begin,
                        scratch.values + column * kBlockKeys + seen_begin * T::kColumns, count, scratch.factors + r,
                        out + r * out_stride + column, out_stride);
        }
      };
      for (int64_t column = 0; column < problem.value_size;) {
        const int64_t taken = Tiles::ColumnsFrom(column, problem.value_size);
        taken == Tile::kColumns ? output.template operator()<Tile>(column)
                                : output.template operator()<typename Tiles::Narrow>(column);
        column += taken;
      }
    }
  });
}

}  // namespace ingot::attention
