// Sixteen lanes: AVX-512 F, BW, DQ and VL. vector_portable.h says what the names mean.
#pragma once

// GCC 12 warns of the undefined operands that its own header passes where they do not matter (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "simd/vector_avx2.h"

namespace ingot::simd {

struct Avx512 {
  using Float = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kRegisters = 32;
  static constexpr int kTile = Avx2::kTile;

  INGOT_INLINE static Float Set(float x) { return _mm512_set1_ps(x); }
  INGOT_INLINE static Float Load(const float* from) { return _mm512_loadu_ps(from); }
  INGOT_INLINE static Float Load(const Half* from) { return FromHalf(_mm256_loadu_si256(Bytes(from))); }
  INGOT_INLINE static Float Load(const Bfloat16* from) { return FromBfloat(_mm256_loadu_si256(Bytes(from))); }
  INGOT_INLINE static Float Load(const int8_t* from) {
    return FromInt8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  INGOT_INLINE static void LoadPairs(const Bfloat16* from, Float& even, Float& odd) {
    const __m512i pairs = _mm512_loadu_si512(from);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
  }
  INGOT_INLINE static Float LoadFirst(const float* from, int64_t count) {
    return _mm512_maskz_loadu_ps(FirstLanes(count), from);
  }
  INGOT_INLINE static Float LoadFirst(const Half* from, int64_t count) {
    return FromHalf(_mm256_maskz_loadu_epi16(FirstLanes(count), from));
  }
  INGOT_INLINE static Float LoadFirst(const Bfloat16* from, int64_t count) {
    return FromBfloat(_mm256_maskz_loadu_epi16(FirstLanes(count), from));
  }
  INGOT_INLINE static Float LoadFirst(const int8_t* from, int64_t count) {
    return FromInt8(_mm_maskz_loadu_epi8(FirstLanes(count), from));
  }
  INGOT_INLINE static void Store(float* to, Float x) { _mm512_storeu_ps(to, x); }
  INGOT_INLINE static void Store(Half* to, Float x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), ToHalf(x)); }
  INGOT_INLINE static void Store(Bfloat16* to, Float x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), ToBfloat(x));
  }
  INGOT_INLINE static void StoreFirst(float* to, int64_t count, Float x) {
    _mm512_mask_storeu_ps(to, FirstLanes(count), x);
  }
  INGOT_INLINE static void StoreFirst(Half* to, int64_t count, Float x) {
    _mm256_mask_storeu_epi16(to, FirstLanes(count), ToHalf(x));
  }
  INGOT_INLINE static void StoreFirst(Bfloat16* to, int64_t count, Float x) {
    _mm256_mask_storeu_epi16(to, FirstLanes(count), ToBfloat(x));
  }

  INGOT_INLINE static Float Fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  INGOT_INLINE static Float Max(Float a, Float b) { return _mm512_max_ps(a, b); }
  INGOT_INLINE static Float Min(Float a, Float b) { return _mm512_min_ps(a, b); }
  INGOT_INLINE static Float Abs(Float x) { return _mm512_andnot_ps(Set(-0.0f), x); }
  INGOT_INLINE static Float CopySign(Float magnitude, Float sign) {
    return _mm512_or_ps(Abs(magnitude), _mm512_and_ps(Set(-0.0f), sign));
  }
  INGOT_INLINE static Float ZeroBelow(Float x, Float limit, Float y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
  }
  INGOT_INLINE static Float Select(Float x, Float limit, Float a, Float b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LE_OQ), b, a);
  }
  // Only here: x less the nearest integer, and x 2^n for integers n.
  INGOT_INLINE static Float FractionOf(Float x) {
    return _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  INGOT_INLINE static Float TimesPowerOfTwo(Float x, Float n) { return _mm512_scalef_ps(x, n); }
  INGOT_INLINE static Float PowerOfTwo(Float t) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23));
  }

  INGOT_INLINE static float ReduceAdd(Float x) {
    return Avx2::ReduceAdd(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
  }
  INGOT_INLINE static void StoreSums(float* to, Float a, Float b, Float c, Float d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
  INGOT_INLINE static float ReduceMax(Float x) {
    return Avx2::ReduceMax(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
  }
  INGOT_INLINE static void TransposeTile(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    Avx2::TransposeTile(from, from_stride, to, to_stride);
  }

 private:
  template <typename T>
  INGOT_INLINE static const __m256i* Bytes(const T* from) {
    return reinterpret_cast<const __m256i*>(from);
  }
  INGOT_INLINE static __mmask16 FirstLanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
  INGOT_INLINE static Float FromHalf(__m256i x) { return _mm512_cvtph_ps(x); }
  INGOT_INLINE static Float FromBfloat(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  INGOT_INLINE static Float FromInt8(__m128i x) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)); }
  INGOT_INLINE static __m256i ToHalf(Float x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
  INGOT_INLINE static __m256i ToBfloat(Float x) {
    const __m512i wide = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(wide, 16), _mm512_set1_epi32(1));
    const __m512i even = _mm512_add_epi32(_mm512_add_epi32(wide, _mm512_set1_epi32(0x7FFF)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i bits = _mm512_mask_or_epi32(even, nan, wide, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
  }
};

}  // namespace ingot::simd
