// Eight lanes: AVX2, FMA and F16C. vector_portable.h says what the names mean.
#pragma once

#include <immintrin.h>

#include "simd/vector_portable.h"

namespace ingot::simd {

struct Avx2 {
  using Float = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kRegisters = 16;
  static constexpr int kTile = 8;

  INGOT_INLINE static Float Set(float x) { return _mm256_set1_ps(x); }
  INGOT_INLINE static Float Load(const float* from) { return _mm256_loadu_ps(from); }
  INGOT_INLINE static Float Load(const Half* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  INGOT_INLINE static Float Load(const Bfloat16* from) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  }
  INGOT_INLINE static Float Load(const int8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }
  INGOT_INLINE static void LoadPairs(const Bfloat16* from, Float& even, Float& odd) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)));
  }
  INGOT_INLINE static Float LoadFirst(const float* from, int64_t count) {
    return _mm256_maskload_ps(from, FirstLanes(count));
  }
  template <typename T>
  INGOT_INLINE static Float LoadFirst(const T* from, int64_t count) {
    T values[kLanes];
    std::memset(static_cast<void*>(values), 0, sizeof(values));
    for (int64_t i = 0; i < count; ++i) values[i] = from[i];
    return Load(values);
  }
  INGOT_INLINE static void Store(float* to, Float x) { _mm256_storeu_ps(to, x); }
  INGOT_INLINE static void Store(Half* to, Float x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  INGOT_INLINE static void Store(Bfloat16* to, Float x) {
    const __m256i wide = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(wide, 16), _mm256_set1_epi32(1));
    const __m256i even = _mm256_add_epi32(_mm256_add_epi32(wide, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i quiet = _mm256_or_si256(wide, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(even, quiet, nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0b1000);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
  }
  INGOT_INLINE static void StoreFirst(float* to, int64_t count, Float x) {
    _mm256_maskstore_ps(to, FirstLanes(count), x);
  }
  template <typename T>
  INGOT_INLINE static void StoreFirst(T* to, int64_t count, Float x) {
    T values[kLanes];
    Store(values, x);
    for (int64_t i = 0; i < count; ++i) to[i] = values[i];
  }

  INGOT_INLINE static Float Fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  INGOT_INLINE static Float Max(Float a, Float b) { return _mm256_max_ps(a, b); }
  INGOT_INLINE static Float Min(Float a, Float b) { return _mm256_min_ps(a, b); }
  INGOT_INLINE static Float Abs(Float x) { return _mm256_andnot_ps(Set(-0.0f), x); }
  INGOT_INLINE static Float CopySign(Float magnitude, Float sign) {
    return _mm256_or_ps(Abs(magnitude), _mm256_and_ps(Set(-0.0f), sign));
  }
  INGOT_INLINE static Float ZeroBelow(Float x, Float limit, Float y) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), y);
  }
  INGOT_INLINE static Float Select(Float x, Float limit, Float a, Float b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, limit, _CMP_LE_OQ));
  }
  INGOT_INLINE static Float PowerOfTwo(Float t) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23));
  }

  INGOT_INLINE static float ReduceAdd(Float x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  INGOT_INLINE static void StoreSums(float* to, Float a, Float b, Float c, Float d) {
    const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256 sums = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
  }
  INGOT_INLINE static float ReduceMax(Float x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }

  // Halves of rows i and i + 4 are loaded side by side, so that the 4 × 4 blocks need only shuffles within lanes.
  INGOT_INLINE static void TransposeTile(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    const auto block = [&](int64_t column) __attribute__((always_inline)) {
      const auto pair = [&](int64_t row) __attribute__((always_inline)) {
        const float* at = from + row * from_stride + column;
        return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at)), _mm_loadu_ps(at + 4 * from_stride), 1);
      };
      const __m256 a = pair(0), b = pair(1), c = pair(2), d = pair(3);
      const __m256 ab_low = _mm256_unpacklo_ps(a, b), ab_high = _mm256_unpackhi_ps(a, b);
      const __m256 cd_low = _mm256_unpacklo_ps(c, d), cd_high = _mm256_unpackhi_ps(c, d);
      float* out = to + column * to_stride;
      Store(out, _mm256_shuffle_ps(ab_low, cd_low, 0b01000100));
      Store(out + to_stride, _mm256_shuffle_ps(ab_low, cd_low, 0b11101110));
      Store(out + 2 * to_stride, _mm256_shuffle_ps(ab_high, cd_high, 0b01000100));
      Store(out + 3 * to_stride, _mm256_shuffle_ps(ab_high, cd_high, 0b11101110));
    };
    block(0);
    block(4);
  }

 private:
  INGOT_INLINE static __m256i FirstLanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace ingot::simd
