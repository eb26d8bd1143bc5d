// Many rows in products of bfloat16 by matrices (AMX): each block of keys and values is packed as B is read; scores and
// outputs are tiles of 32 rows by 32 columns, and the running softmax between them is that of floats. Where operands
// may not be rounded, they are bfloat16, and weights are each the sum of two, within 2^-17.
#pragma once

#include "cpu/attention/rows.h"
#include "simd/amx.h"

namespace ingot::attention {

constexpr int64_t kTile = 2 * simd::kMatrixRows;         // rows and columns
constexpr int64_t kDepth = simd::kMatrixRowBytes / 2;    // k of a register
constexpr int64_t kMatrix = simd::kMatrixRows * kDepth;  // numbers of a register
static_assert(kMatrixBlockRows == kTile && kPadding % kTile == 0 && kBlockKeys % kTile == 0);

// Rounds `count` floats.
INGOT_INLINE void RoundRow(const float* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto mask = static_cast<__mmask16>((1u << Least(count - i, 16)) - 1);
    const __m512 x = _mm512_maskz_loadu_ps(mask, from + i);
    _mm256_mask_storeu_epi16(to + i, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  }
}

// What is left of `count` floats that were rounded, rounded.
INGOT_INLINE void RoundRest(const float* from, const uint16_t* rounded, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rounded + i)));
    const __m512 rest = _mm512_sub_ps(_mm512_loadu_ps(from + i), _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(rest)));
  }
}

// The row of a key or value, as FloatRow, with zeros behind it up to `padded`.
template <typename V>
INGOT_INLINE void BfloatRow(const Tensor& tensor, int64_t place, int64_t size, int64_t padded, uint16_t* to) {
  if (tensor.element == Element::kBfloat && tensor.feature == 1) {
    std::memcpy(to, static_cast<const uint16_t*>(tensor.data) + place, static_cast<size_t>(size) * 2);
  } else {
    float staged[kMostSize];
    RoundRow(FloatRow<V>(tensor, place, size, 1, staged), to, size);
  }
  for (int64_t i = size; i < padded; ++i) to[i] = 0;
}

// Packs keys: of 16 keys and each 32 features a register; keys that there are not are zeros.
template <typename V>
[[gnu::noinline]] void PackMatrixKeys(const Problem& problem, const Scratch& scratch, const Block& block) {
  const int64_t padded = RoundUp(problem.size, kDepth);
  auto* staged = reinterpret_cast<uint16_t*>(scratch.staging);
  auto* to = scratch.keys;
  for (int64_t key = 0; key < RoundUp(block.count, kTile); key += simd::kMatrixRows) {
    for (int64_t i = 0; i < simd::kMatrixRows; ++i) {
      uint16_t* row = staged + i * padded;
      if (key + i < block.count) {
        BfloatRow<V>(problem.k, block.k[key + i], problem.size, padded, row);
      } else {
        std::memset(row, 0, static_cast<size_t>(padded) * 2);
      }
    }
    // Pairs of features are elements of 32 bits.
    for (int64_t pair = 0; pair < padded / 2; pair += V::kTile)
      for (int64_t i = 0; i < simd::kMatrixRows; i += V::kTile)
        V::TransposeTile(scratch.staging + i * padded / 2 + pair, padded / 2, to + pair * simd::kMatrixRows + i,
                         simd::kMatrixRows);
    to += padded / 2 * simd::kMatrixRows;
  }
}

// Packs values: of 32 keys and each 16 columns a register, with pairs of keys side by side.
template <typename V>
[[gnu::noinline]] void PackMatrixValues(const Problem& problem, const Scratch& scratch, const Block& block) {
  const int64_t padded = RoundUp(problem.value_size, kTile);
  const __m512i low =
      _mm512_setr_epi32(0x00200000, 0x00210001, 0x00220002, 0x00230003, 0x00240004, 0x00250005, 0x00260006, 0x00270007,
                        0x00280008, 0x00290009, 0x002A000A, 0x002B000B, 0x002C000C, 0x002D000D, 0x002E000E, 0x002F000F);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  auto* values = reinterpret_cast<uint16_t*>(scratch.values);
  for (int64_t key = 0; key < RoundUp(block.count, kDepth); key += 2) {
    uint16_t rows[2][kMostSize];
    for (int64_t i = 0; i < 2; ++i) {
      if (key + i < block.count) {
        BfloatRow<V>(problem.v, block.v[key + i], problem.value_size, padded, rows[i]);
      } else {
        std::memset(rows[i], 0, static_cast<size_t>(padded) * 2);
      }
    }
    uint16_t* to = values + key / kDepth * kDepth * padded + key % kDepth / 2 * kDepth;
    for (int64_t column = 0; column < padded; column += kTile, to += 2 * kMatrix) {
      const __m512i even = _mm512_loadu_si512(rows[0] + column), odd = _mm512_loadu_si512(rows[1] + column);
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low, odd));
      _mm512_storeu_si512(to + kMatrix, _mm512_permutex2var_epi16(even, high, odd));
    }
  }
}

// A tile of sums plus products of A, whose rows lie `stride` numbers apart, and registers of B, of which the right ones
// lie `right` numbers behind the left ones, and the next ones `onward`.
INGOT_INLINE void AddProducts(const uint16_t* a, int64_t stride, const uint16_t* b, int64_t right, int64_t onward,
                              int64_t depth) {
  for (int64_t k = 0; k < depth; k += kDepth, b += onward) {
    _tile_loadd(4, a + k, stride * 2);
    _tile_loadd(5, a + simd::kMatrixRows * stride + k, stride * 2);
    _tile_loadd(6, b, simd::kMatrixRowBytes);
    _tile_loadd(7, b + right, simd::kMatrixRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

INGOT_INLINE void StoreTile(float* to, int64_t stride) {
  _tile_stored(0, to, stride * 4);
  _tile_stored(1, to + simd::kMatrixRows, stride * 4);
  _tile_stored(2, to + simd::kMatrixRows * stride, stride * 4);
  _tile_stored(3, to + simd::kMatrixRows * stride + simd::kMatrixRows, stride * 4);
}

INGOT_INLINE void LoadTile(const float* from, int64_t stride) {
  _tile_loadd(0, from, stride * 4);
  _tile_loadd(1, from + simd::kMatrixRows, stride * 4);
  _tile_loadd(2, from + simd::kMatrixRows * stride, stride * 4);
  _tile_loadd(3, from + simd::kMatrixRows * stride + simd::kMatrixRows, stride * 4);
}

// Whether a number is a power of two: bfloat16 times it is exact.
INGOT_INLINE bool IsPowerOfTwo(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return (bits & 0x807FFFFF) == 0 && bits >= 0x20000000 && bits <= 0x5F000000;
}

// The factor of queries, and that of scores.
struct Factors {
  float queries, scores;
};

INGOT_INLINE Factors FactorsOf(const Problem& problem) {
  const float scale = problem.softcap > 0 ? problem.scale / problem.softcap : problem.scale;
  if (IsPowerOfTwo(scale)) return {scale, 1};
  return {1, scale};
}

// Rounds a head's queries, which are floats, in place.
template <typename V>
[[gnu::noinline]] void RoundQueries(const Problem& problem, float* queries, int64_t rows) {
  const int64_t stride = RoundUp(problem.size, kPadding);
  auto* to = reinterpret_cast<uint16_t*>(queries);
  for (int64_t row = 0; row < rows; ++row) {
    float staged[kMostSize];
    std::memcpy(staged, queries + row * stride, static_cast<size_t>(stride) * 4);
    RoundRow(staged, to + row * stride, stride);
  }
}

template <typename V>
void RunMatrices(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  const int64_t padded = RoundUp(problem.size, kDepth);
  const int64_t out_stride = RoundUp(problem.value_size, kPadding);
  const float factor = FactorsOf(problem).scores;
  const auto* keys = reinterpret_cast<const uint16_t*>(scratch.keys);
  const auto* values = reinterpret_cast<const uint16_t*>(scratch.values);
  alignas(64) uint16_t weights[2][kTile * kBlockKeys];
  const int parts = problem.rounds ? 1 : 2;
  Block block;
  ForBlocks(problem, unit, kBlockKeys, [&](int64_t first, int64_t count) {
    Locate<V>(problem, unit, first, count, block);
    PackMatrixKeys<V>(problem, scratch, block);
    PackMatrixValues<V>(problem, scratch, block);
    const auto* all_queries = reinterpret_cast<const uint16_t*>(QueriesOf(problem, scratch, first));
    for (int64_t row = unit.first_row; row < unit.end_row; row += kTile) {
      const int64_t rows = Least(kTile, unit.end_row - row);
      const int64_t window_begin = Greatest(VisibleKeys(problem, unit, row).begin - first, 0);
      const int64_t begin = first < problem.sink_keys ? 0 : window_begin / kTile * kTile;
      const int64_t end = RoundUp(Least(VisibleKeys(problem, unit, row + rows - 1).end - first, count), kTile);
      if (begin >= end) continue;
      const uint16_t* queries = all_queries + (row - unit.first_row) * RoundUp(problem.size, kPadding);
      for (int64_t column = begin; column < end; column += kTile) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        AddProducts(queries, RoundUp(problem.size, kPadding), keys + column * padded, simd::kMatrixRows * padded,
                    kMatrix, padded);
        StoreTile(scratch.scores + column, kBlockKeys);
      }
      if (factor != 1) {
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = begin; i < end; i += V::kLanes) {
            float* at = scratch.scores + r * kBlockKeys + i;
            V::Store(at, V::Load(at) * V::Set(factor));
          }
      }
      if (!UpdateRows<V>(problem, unit, scratch, row, rows, block, {begin, end})) continue;
      float* out = scratch.out + (row - unit.first_row) * out_stride;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = r * kBlockKeys + begin;
        RoundRow(scratch.scores + at, weights[0] + at, end - begin);
        if (parts > 1) RoundRest(scratch.scores + at, weights[0] + at, weights[1] + at, end - begin);
        for (int64_t i = 0; i < out_stride; i += V::kLanes) {
          float* sums = out + r * out_stride + i;
          V::Store(sums, V::Load(sums) * V::Set(scratch.factors[r]));
        }
      }
      for (int64_t column = 0; column < out_stride; column += kTile) {
        LoadTile(out + column, out_stride);
        for (int part = 0; part < parts; ++part)
          AddProducts(weights[part] + begin, kBlockKeys, values + begin * out_stride + column / kTile * 2 * kMatrix,
                      kMatrix, kDepth * out_stride, end - begin);
        StoreTile(out + column, out_stride);
      }
    }
  });
}

}  // namespace ingot::attention
