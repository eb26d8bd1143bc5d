// Many rows in integers by matrices of signed bytes (AMX): tiles of 32 rows by two panels. X lies as A is read, in
// tiles of 16 rows by 64 k; packed weights of 8 bits are B as they lie, others are expanded a chunk at a time.
#pragma once

#include "cpu/quantized_matmul/epilogue.h"
#include "cpu/quantized_matmul/integer.h"
#include "cpu/quantized_matmul/scales.h"
#include "simd/amx.h"

namespace ingot::quantized_matmul {

constexpr int64_t kMatrixRows = simd::kMatrixRows;
constexpr int64_t kMatrixDepth = simd::kMatrixRowBytes;
// Lines of a panel that are fetched during the products of a matrix: many at once hold them up.
constexpr int64_t kMostLines = 4;
constexpr int64_t kMatrixBytes = kMatrixRows * kMatrixDepth;
constexpr int64_t kTileProducts = 2 * kMatrixRows * kMostPanels * kPanel;
// k whose products are added to the sums at once, where runs are shorter, in at most kMostRuns runs.
constexpr int64_t kBatch = 256;
constexpr int64_t kMostRuns = 4;
static_assert(kPanel == kMatrixRows && kMostPanels == 2 && kChunk % kMatrixDepth == 0);

INGOT_INLINE int64_t PaddedDepth(const Problem& problem) {
  return (problem.steps * kStep + kMatrixDepth - 1) / kMatrixDepth * kMatrixDepth;
}

// Rounds a row of PaddedDepth floats, the last of which are zeros, as QuantizeRow does. `to` is its place in a tile.
template <typename V>
INGOT_INLINE void QuantizeMatrixRow(const Problem& problem, const float* x, int8_t* to, float* scales, float* sums) {
  const int64_t depth = problem.steps * kStep;
  for (int64_t group = 0; group < depth; group += problem.x_group) {
    const int64_t end = Least(group + problem.x_group, (depth + V::kLanes - 1) / V::kLanes * V::kLanes);
    const Rounding rounding = FindRounding<V>(x + group, end - group);
    const auto first = V::Set(rounding.finite ? rounding.first : 0), second = V::Set(rounding.second);
    for (int64_t run = group; run < end; run += problem.run) {
      __m512i total = _mm512_setzero_si512();
      for (int64_t k = run; k < Least(run + problem.run, end); k += V::kLanes) {
        const __m512 value = rounding.finite ? V::Load(x + k) * first * second : V::Set(0);
        const __m512i ints = _mm512_cvtps_epi32(value);
        total = _mm512_add_epi32(total, ints);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + k / kMatrixDepth * kMatrixBytes + k % kMatrixDepth),
                         _mm512_cvtepi32_epi8(ints));
      }
      *scales = rounding.scale * problem.table_unit;
      *sums = static_cast<float>(_mm512_reduce_add_epi32(total));
      scales += kMatrixRows;
      sums += kMatrixRows;
    }
  }
}

// Rounds the rows from `first` on, at most a tile; rows that there are not are zeros.
template <typename V>
INGOT_INLINE void QuantizeMatrixTile(const Problem& problem, const Scratch& scratch, int64_t first, int64_t rows) {
  const int64_t depth = PaddedDepth(problem);
  const int64_t runs = (problem.steps * kStep + problem.run - 1) / problem.run;
  const int64_t base = first - scratch.base_row;
  int8_t* tile = static_cast<int8_t*>(scratch.rows.values) + base * depth;
  if (depth == 0) return;
  __builtin_memset(tile + kMatrixRows * (depth - kMatrixDepth), 0, kMatrixBytes);
  for (int64_t r = 0; r < kMatrixRows; ++r) {
    if (r < rows) WidenRow<V>(problem, first + r, 0, problem.depth, scratch.staging);
    for (int64_t i = r < rows ? problem.depth : 0; i < depth; ++i) scratch.staging[i] = 0;
    QuantizeMatrixRow<V>(problem, scratch.staging, tile + r * kMatrixDepth, scratch.rows.scales + base * runs + r,
                         scratch.rows.sums + base * runs + r);
  }
}

// Expands a panel's weights of `steps` steps to signed bytes, with zeros up to a whole matrix.
template <typename Bytes, Codes kCodes>
[[gnu::noinline]] void ExpandSigned(const Problem& problem, const uint8_t* weights, int64_t steps, uint8_t* to) {
  const auto table = Bytes::LoadTable(problem.table_bytes);
  constexpr int64_t kHalf = kPanel * kStep / 2;
  for (int64_t step = 0; step < steps; ++step, weights += StepBytes(kCodes)) {
#pragma GCC unroll 2
    for (int part = 0; part < 2; ++part, to += kHalf) {
      __m512i codes;
      if constexpr (kCodes == Codes::kNibbles) {
        codes = _mm512_sub_epi8(Bytes::LoadNibbles(weights, part), _mm512_set1_epi8(8));
      } else {
        codes = Bytes::template LoadSigned<kCodes>(weights, part, table);
      }
      _mm512_storeu_si512(to, codes);
    }
  }
  const int64_t missing = (kMatrixDepth / kStep - steps % (kMatrixDepth / kStep)) % (kMatrixDepth / kStep);
  __builtin_memset(to, 0, static_cast<size_t>(missing) * kPanel * kStep);
}

// What a tile multiplies and adds to.
struct MatrixTile {
  const int8_t* x;  // its first 16 rows; the others are `below` behind
  int64_t below;
  const uint8_t* weights;  // of its first panel; those of the second are `right` behind
  int64_t right;
  const float* row_scales;  // of a run of the first 16 rows; the others are `scales_below` behind
  const float* row_sums;
  int64_t scales_below;
  float* sums;  // of its first panel; those of the second are `sums_right` behind
  int64_t sums_right;
  int64_t rows;  // that there are
  // Of the next pair of panels, `next_right` apart: what this tile fetches, `lines` for each matrix of weights.
  const uint8_t* next;
  int64_t next_right;
  int64_t lines;
};

template <int kHigh, int kWide>
INGOT_INLINE void ZeroRegisters() {
  _tile_zero(0);
  if constexpr (kWide > 1) _tile_zero(1);
  if constexpr (kHigh > 1) _tile_zero(2);
  if constexpr (kHigh > 1 && kWide > 1) _tile_zero(3);
}

// Products lie as [rows, two panels].
template <int kHigh, int kWide>
INGOT_INLINE void StoreRegisters(int32_t* to) {
  constexpr int64_t kStride = 2 * kPanel * 4;
  _tile_stored(0, to, kStride);
  if constexpr (kWide > 1) _tile_stored(1, to + kPanel, kStride);
  if constexpr (kHigh > 1) _tile_stored(2, to + kMatrixRows * 2 * kPanel, kStride);
  if constexpr (kHigh > 1 && kWide > 1) _tile_stored(3, to + kMatrixRows * 2 * kPanel + kPanel, kStride);
}

// Adds the products of the k from `first` on; a register has `bytes` of them.
template <int kHigh, int kWide>
INGOT_INLINE void MultiplyRun(const MatrixTile& tile, int64_t first, int64_t end, int64_t bytes) {
  for (int64_t k = first; k < end; k += bytes) {
    const int64_t block = k / kMatrixDepth * kMatrixBytes, within = k % kMatrixDepth;
    const int8_t* x = tile.x + block + within;
    const uint8_t* w = tile.weights + block + within / 4 * kMatrixDepth;
    const uint8_t* next = tile.next + k / kMatrixDepth * tile.lines * kMatrixDepth;
    for (int64_t line = 0; line < tile.lines; ++line) {
      __builtin_prefetch(next + line * kMatrixDepth, 0, 2);
      __builtin_prefetch(next + tile.next_right + line * kMatrixDepth, 0, 2);
    }
    _tile_loadd(4, x, kMatrixDepth);
    if constexpr (kHigh > 1) _tile_loadd(5, x + tile.below, kMatrixDepth);
    _tile_loadd(6, w, kMatrixDepth);
    if constexpr (kWide > 1) _tile_loadd(7, w + tile.right, kMatrixDepth);
    _tile_dpbssd(0, 4, 6);
    if constexpr (kWide > 1) _tile_dpbssd(1, 4, 7);
    if constexpr (kHigh > 1) _tile_dpbssd(2, 5, 6);
    if constexpr (kHigh > 1 && kWide > 1) _tile_dpbssd(3, 5, 7);
  }
}

// What turns the products of a chunk of k into floats: scales and zeros of `group_runs` runs each, `apart` from one
// panel's to the next; zeros may be nullptr.
struct MatrixScales {
  const float* scales;
  const float* zeros;
  int64_t apart;
  int64_t group_runs;
};

// Adds what the products of kRuns runs from `run` on, [kRuns, rows, two panels], stand for to the sums. With kOneScale
// these runs share the weights' scales, and there are no zeros.
template <typename V, int kWide, int kRuns, bool kOneScale>
[[gnu::noinline]] void AddRuns(const MatrixTile& tile, const MatrixScales& by, int64_t run, const int32_t* products) {
  typename V::Float scale[kOneScale ? 1 : kRuns][kWide];
  for (int i = 0; i < (kOneScale ? 1 : kRuns); ++i)
    for (int w = 0; w < kWide; ++w)
      scale[i][w] = V::Load(by.scales + w * by.apart + (run + i) / by.group_runs * kPanel);
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t place = r / kMatrixRows * tile.scales_below + run * kMatrixRows + r % kMatrixRows;
    float* sums = tile.sums + r * kPanel;
    typename V::Float sum[kWide];
    for (int w = 0; w < kWide; ++w) sum[w] = kOneScale ? V::Set(0) : V::Load(sums + w * tile.sums_right);
#pragma GCC unroll 4
    for (int i = 0; i < kRuns; ++i) {
      const auto row_scale = V::Set(tile.row_scales[place + i * kMatrixRows]);
#pragma GCC unroll 2
      for (int w = 0; w < kWide; ++w) {
        auto product = _mm512_cvtepi32_ps(_mm512_load_si512(products + (i * kTileProducts + (r * 2 + w) * kPanel)));
        if constexpr (kOneScale) {
          sum[w] = V::Fma(product, row_scale, sum[w]);
        } else {
          if (by.zeros != nullptr) {
            const auto zero = V::Load(by.zeros + w * by.apart + (run + i) / by.group_runs * kPanel);
            product = V::Fma(zero, V::Set(-tile.row_sums[place + i * kMatrixRows]), product);
          }
          sum[w] = V::Fma(product, scale[i][w] * row_scale, sum[w]);
        }
      }
    }
    for (int w = 0; w < kWide; ++w) {
      float* to = sums + w * tile.sums_right;
      V::Store(to, kOneScale ? V::Fma(sum[w], scale[0][w], V::Load(to)) : sum[w]);
    }
  }
}

// Adds what the products of `depth` k stand for to the sums. Runs are short: those of kBatch k are added at once, so
// that sums are read and written once for all of them. Of more k, products would not stay in a first-level cache.
template <typename V, int kHigh, int kWide>
[[gnu::noinline]] void MultiplyMatrixTile(const Problem& problem, const MatrixTile& tile, int64_t depth,
                                          const MatrixScales& by) {
  const int64_t bytes = Least(problem.run, kMatrixDepth);
  const int64_t runs = (depth + problem.run - 1) / problem.run;
  alignas(64) int32_t products[kMostRuns][kTileProducts];
  for (int64_t run = 0; run < runs;) {
    const auto batch = [&]<int kRuns>() __attribute__((always_inline)) {
#pragma GCC unroll 1
      for (int i = 0; i < kRuns; ++i) {
        const int64_t k = (run + i) * problem.run;
        ZeroRegisters<kHigh, kWide>();
        MultiplyRun<kHigh, kWide>(tile, k, Least(k + problem.run, depth), bytes);
        StoreRegisters<kHigh, kWide>(products[i]);
      }
      if (kRuns > 1 && by.zeros == nullptr && run / by.group_runs == (run + kRuns - 1) / by.group_runs) {
        AddRuns<V, kWide, kRuns, kRuns != 1>(tile, by, run, products[0]);
      } else {
        AddRuns<V, kWide, kRuns, false>(tile, by, run, products[0]);
      }
      return kRuns;
    };
    const int64_t at_once = Least(kBatch / problem.run, runs - run);
    run += at_once >= 4   ? batch.template operator()<4>()
           : at_once >= 2 ? batch.template operator()<2>()
                          : batch.template operator()<1>();
  }
}

// A unit in integers: chunks of k outside, pairs of panels and then tiles of rows inside.
template <typename V, typename Bytes, Codes kCodes>
INGOT_INLINE void MultiplyMatrices(const Problem& problem, const Scratch& scratch, const Unit& unit) {
  const int64_t rows = unit.end_row - unit.first_row;
  const int64_t depth = problem.steps * kStep, padded = PaddedDepth(problem);
  const int64_t runs = (depth + problem.run - 1) / problem.run;
  const int64_t base = unit.first_row - scratch.base_row;
  const simd::Matrices registers(Least(problem.run, kMatrixDepth));
  for (int64_t first = 0; first < depth; first += kChunk) {
    const int64_t taken = Least(kChunk, depth - first);
    const bool lies = kCodes == Codes::kBytes && taken % kMatrixDepth == 0;
    for (int64_t panel = unit.first_panel; panel < unit.end_panel; panel += kMostPanels) {
      const int64_t wide = Least(kMostPanels, unit.end_panel - panel);
      const float* zeros = ReadScales<V>(problem, scratch, panel, wide, first, taken);
      const uint8_t* packed = problem.weights + panel * problem.panel_bytes + first / kStep * StepBytes(kCodes);
      auto* expanded = static_cast<uint8_t*>(scratch.expanded);
      for (int64_t w = 0; w < wide && !lies; ++w)
        ExpandSigned<Bytes, kCodes>(problem, packed + w * problem.panel_bytes, taken / kStep,
                                    expanded + w * kChunk * kPanel);
      const MatrixScales by = {scratch.scales, zeros, GroupsIn(problem, taken) * kPanel,
                               Least(problem.group, kChunk) / problem.run};
      // Each tile of rows fetches a part of what the next pair of panels is multiplied by.
      const int64_t tiles = (rows + 2 * kMatrixRows - 1) / (2 * kMatrixRows);
      const int64_t lines = Least((StepBytes(kCodes) / kStep + tiles - 1) / tiles, kMostLines);
      const int64_t part = taken * lines;
      for (int64_t row = 0; row < rows; row += 2 * kMatrixRows) {
        const int64_t place = (base + row) * runs + first / problem.run * kMatrixRows;
        const MatrixTile tile = {
            static_cast<const int8_t*>(scratch.rows.values) + (base + row) * padded + first * kMatrixRows,
            kMatrixRows * padded,
            lies ? packed : expanded,
            lies ? problem.panel_bytes : kChunk * kPanel,
            scratch.rows.scales + place,
            scratch.rows.sums + place,
            kMatrixRows * runs,
            scratch.sums + ((panel - unit.first_panel) * rows + row) * kPanel,
            rows * kPanel,
            Least(rows - row, 2 * kMatrixRows),
            packed + kMostPanels * problem.panel_bytes + row / (2 * kMatrixRows) * part,
            problem.panel_bytes,
            lines};
        const auto multiply = [&]<int kHigh, int kWide>() __attribute__((always_inline)) {
          MultiplyMatrixTile<V, kHigh, kWide>(problem, tile, taken, by);
        };
        const bool high = tile.rows > kMatrixRows;
        if (wide > 1) {
          high ? multiply.template operator()<2, 2>() : multiply.template operator()<1, 2>();
        } else {
          high ? multiply.template operator()<2, 1>() : multiply.template operator()<1, 1>();
        }
      }
    }
  }
}

}  // namespace ingot::quantized_matmul
