// Operands of matrices: floats taken apart, and keys and values packed as B is read.
#pragma once

#include "cpu/attention/rows.h"
#include "simd/amx.h"

namespace ingot::attention {

constexpr int64_t kTile = 2 * simd::kMatrixRows;         // rows and columns
constexpr int64_t kDepth = simd::kMatrixRowBytes / 2;    // k of a register
constexpr int64_t kMatrix = simd::kMatrixRows * kDepth;  // numbers of a register
static_assert(kMatrixBlockRows == kTile && kPadding % kTile == 0 && kBlockKeys % kTile == 0);

// Writes 16 pairs of numbers of 16 bits, kParts times, `distance` apart: of a and b side by side, each time the first
// eight bits of what is left, so that the sum of three is the float. Returns what is left of a and b after the first:
// NaN if one of them is not finite.
template <int kParts>
INGOT_INLINE __m512 StorePairs(__m512 a, __m512 b, uint16_t* to, int64_t distance) {
  const __m512i high = _mm512_set1_epi32(-65536);
  __m512 rest = _mm512_setzero_ps();
#pragma GCC unroll 3
  for (int part = 0; part < kParts; ++part) {
    constexpr int kOrBoth = 0xF8;  // x | (y & z)
    _mm512_storeu_si512(to + part * distance, _mm512_ternarylogic_epi32(_mm512_srli_epi32(_mm512_castps_si512(a), 16),
                                                                        _mm512_castps_si512(b), high, kOrBoth));
    if (part + 1 == kParts) break;
    a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), high)));
    b = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(b), high)));
    if (part == 0) rest = _mm512_add_ps(a, b);
  }
  return rest;
}

INGOT_INLINE bool AreNumbers(__m512 x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) == 0; }

// Up to 16 floats with zeros behind them.
INGOT_INLINE __m512 LoadLeft(const float* from, int64_t count) {
  const auto mask = static_cast<__mmask16>(count >= 16 ? 0xFFFF : (1u << Greatest(count, 0)) - 1);
  return _mm512_maskz_loadu_ps(mask, from);
}

// Rounds `count` floats.
INGOT_INLINE void RoundRow(const float* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto mask = static_cast<__mmask16>((1u << Least(count - i, 16)) - 1);
    const __m512 x = _mm512_maskz_loadu_ps(mask, from + i);
    _mm256_mask_storeu_epi16(to + i, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  }
}

// Writes the parts of `count` floats, `distance` apart, and zeros behind them up to `padded`. One is rounded; of three,
// those of 16 numbers and the next 16 alternate. Returns whether all are finite, if there are three: an infinity is no
// sum.
template <int kParts>
INGOT_INLINE bool SplitRow(const float* from, int64_t count, int64_t padded, uint16_t* to, int64_t distance) {
  if constexpr (kParts == 1) {
    RoundRow(from, to, count);
    for (int64_t i = count; i < padded; ++i) to[i] = 0;
    return true;
  }
  __m512 rest = _mm512_setzero_ps();
  for (int64_t i = 0; i < padded; i += kDepth)
    rest = _mm512_add_ps(rest, StorePairs<kParts>(LoadLeft(from + i, count - i),
                                                  LoadLeft(from + i + 16, count - i - 16), to + i, distance));
  return AreNumbers(rest);
}

// The parts of a row of a key or value, as SplitRow.
template <typename V, int kParts>
INGOT_INLINE bool PartsOfRow(const Tensor& tensor, int64_t place, int64_t size, int64_t padded, uint16_t* to,
                             int64_t distance) {
  if (kParts == 1 && tensor.element == Element::kBfloat && tensor.feature == 1) {
    std::memcpy(to, static_cast<const uint16_t*>(tensor.data) + place, static_cast<size_t>(size) * 2);
    for (int64_t i = size; i < padded; ++i) to[i] = 0;
    return true;
  }
  float staged[kMostSize];
  return SplitRow<kParts>(FloatRow<V>(tensor, place, size, 1, staged), size, padded, to, distance);
}

// Fetches a row of a key or value that will be packed soon.
INGOT_INLINE void FetchRow(const Tensor& tensor, int64_t place, int64_t size) {
  if (tensor.feature != 1) return;
  WithCacheType(tensor.element, [&]<typename T>(T*) __attribute__((always_inline)) {
    Fetch(static_cast<const T*>(tensor.data) + place, size);
  });
}

// Packs keys: of 16 keys and each 32 features a register; keys that there are not are zeros. Returns whether all are
// finite, if they are of several parts.
template <typename V, int kParts>
[[gnu::noinline]] bool PackMatrixKeys(const Problem& problem, const Scratch& scratch, const Block& block) {
  const int64_t padded = RoundUp(problem.size, kDepth);
  alignas(64) uint16_t staged[kParts][simd::kMatrixRows * kMostSize];
  auto* to = scratch.keys;
  bool finite = true;
  for (int64_t key = 0; key < RoundUp(block.count, kTile); key += simd::kMatrixRows) {
    for (int64_t i = 0; i < simd::kMatrixRows; ++i) {
      if (key + i + simd::kMatrixRows < block.count)
        FetchRow(problem.k, block.k[key + i + simd::kMatrixRows], problem.size);
      uint16_t* row = staged[0] + i * padded;
      if (key + i < block.count) {
        finite &= PartsOfRow<V, kParts>(problem.k, block.k[key + i], problem.size, padded, row, sizeof(staged[0]) / 2);
      } else {
        for (int part = 0; part < kParts; ++part)
          std::memset(staged[part] + i * padded, 0, static_cast<size_t>(padded) * 2);
      }
    }
    // Pairs of features are elements of 32 bits.
    for (int part = 0; part < kParts; ++part) {
      float* panel = to + part * kBlockKeys * padded / 2;
      for (int64_t pair = 0; pair < padded / 2; pair += V::kTile)
        for (int64_t i = 0; i < simd::kMatrixRows; i += V::kTile)
          V::TransposeTile(reinterpret_cast<const float*>(staged[part]) + i * padded / 2 + pair, padded / 2,
                           panel + pair * simd::kMatrixRows + i, simd::kMatrixRows);
    }
    to += padded / 2 * simd::kMatrixRows;
  }
  return finite;
}

// Calls body(pair, keys) for every pair of keys of a block, in the order in which registers of values have them.
template <bool kNeighbors, typename Body>
INGOT_INLINE void ForPairs(const Block& block, Body&& body) {
  for (int64_t pair = 0; pair < RoundUp(block.count, kDepth) / 2; ++pair) {
    const int64_t first = pair / (kDepth / 2) * kDepth;
    const int64_t own = pair % (kDepth / 2);
    const int64_t keys[2] = {first + (kNeighbors ? 2 * own : own),
                             first + (kNeighbors ? 2 * own + 1 : own + kDepth / 2)};
    body(pair, keys);
  }
}

// Where a pair's first 16 columns are; the next ones are a register further.
INGOT_INLINE uint16_t* PairOfValues(const Scratch& scratch, int64_t padded, int64_t pair) {
  return reinterpret_cast<uint16_t*>(scratch.values) + pair / (kDepth / 2) * kDepth * padded +
         pair % (kDepth / 2) * kDepth;
}

// Packs values: of 32 keys and each 16 columns a register, with pairs of neighbors side by side.
template <typename V>
[[gnu::noinline]] void PackMatrixValues(const Problem& problem, const Scratch& scratch, const Block& block) {
  const int64_t padded = RoundUp(problem.value_size, kTile);
  const __m512i low =
      _mm512_setr_epi32(0x00200000, 0x00210001, 0x00220002, 0x00230003, 0x00240004, 0x00250005, 0x00260006, 0x00270007,
                        0x00280008, 0x00290009, 0x002A000A, 0x002B000B, 0x002C000C, 0x002D000D, 0x002E000E, 0x002F000F);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  ForPairs<true>(block, [&](int64_t pair, const int64_t (&keys)[2]) __attribute__((always_inline)) {
    alignas(64) uint16_t rows[2][kMostSize];
    for (int64_t side = 0; side < 2; ++side) {
      if (keys[side] + kFetchedRows < block.count)
        FetchRow(problem.v, block.v[keys[side] + kFetchedRows], problem.value_size);
      if (keys[side] < block.count) {
        PartsOfRow<V, 1>(problem.v, block.v[keys[side]], problem.value_size, padded, rows[side], 0);
      } else {
        std::memset(rows[side], 0, static_cast<size_t>(padded) * 2);
      }
    }
    uint16_t* to = PairOfValues(scratch, padded, pair);
    for (int64_t column = 0; column < padded; column += kTile, to += 2 * kMatrix) {
      const __m512i even = _mm512_loadu_si512(rows[0] + column);
      const __m512i odd = _mm512_loadu_si512(rows[1] + column);
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low, odd));
      _mm512_storeu_si512(to + kMatrix, _mm512_permutex2var_epi16(even, high, odd));
    }
  });
}

// Likewise in three parts, with keys side by side that are 16 apart, as WriteWeights has them. Returns whether all are
// finite.
template <typename V>
[[gnu::noinline]] bool PackSplitValues(const Problem& problem, const Scratch& scratch, const Block& block) {
  const int64_t size = problem.value_size;
  const int64_t padded = RoundUp(size, kTile);
  __m512 rest = _mm512_setzero_ps();
  ForPairs<false>(block, [&](int64_t pair, const int64_t (&keys)[2]) __attribute__((always_inline)) {
    float staged[2][kMostSize];
    const float* rows[2];
    int64_t sizes[2];
    for (int64_t side = 0; side < 2; ++side) {
      if (keys[side] + kFetchedRows < block.count) FetchRow(problem.v, block.v[keys[side] + kFetchedRows], size);
      const bool exists = keys[side] < block.count;
      rows[side] = exists ? FloatRow<V>(problem.v, block.v[keys[side]], size, 1, staged[side]) : staged[side];
      sizes[side] = exists ? size : 0;
    }
    uint16_t* to = PairOfValues(scratch, padded, pair);
    for (int64_t column = 0; column < padded; column += 16, to += kMatrix) {
      const __m512 even = LoadLeft(rows[0] + column, sizes[0] - column);
      const __m512 odd = LoadLeft(rows[1] + column, sizes[1] - column);
      rest = _mm512_add_ps(rest, StorePairs<3>(even, odd, to, kBlockKeys * padded));
    }
  });
  return AreNumbers(rest);
}

// The parts of a head's queries times `scale`: [padded rows, kParts, padded size]; rows that there are not are zeros.
// Returns whether all are finite, if they are of several parts.
template <typename V, int kParts>
[[gnu::noinline]] bool SplitQueries(const Problem& problem, const Unit& unit, const Tensor& q, float scale,
                                    int64_t padded_rows, float* queries) {
  const int64_t rows = unit.end_row - unit.first_row;
  const int64_t stride = RoundUp(problem.size, kPadding);
  auto* to = reinterpret_cast<uint16_t*>(queries);
  bool finite = true;
  WithType(q.element, [&]<typename T>(T*) __attribute__((always_inline)) {
    const auto row_of = [&](int64_t i) __attribute__((always_inline)) {
      const int64_t row = unit.first_row + i;
      return RowOf<T>(q, unit.batch, QueryOf(problem, row), HeadOf(problem, unit, row));
    };
    for (int64_t i = 0; i < rows; ++i) {
      float scaled[kMostSize];
      if (i + kFetchedRows < rows) Fetch(row_of(i + kFetchedRows), problem.size);
      ScaleRow<V>(row_of(i), scaled, problem.size, scale);
      finite &= SplitRow<kParts>(scaled, problem.size, stride, to + i * kParts * stride, stride);
    }
  });
  std::memset(to + rows * kParts * stride, 0, static_cast<size_t>((padded_rows - rows) * kParts * stride) * 2);
  return finite;
}

}  // namespace ingot::attention
