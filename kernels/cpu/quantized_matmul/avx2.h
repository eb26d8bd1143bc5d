// AVX2 and, for what is the same there, AVX-VNNI.
#pragma once

#include "cpu/quantized_matmul/path.h"
#include "simd/vector_avx2.h"

namespace ingot::quantized_matmul {

struct Avx2Lanes {
  using V = simd::Avx2;
  using Int = __m256i;
  static constexpr int kVectors = 2;
  static constexpr int kTileRows = 6;

  INGOT_INLINE static Int LoadInts(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  INGOT_INLINE static __m256 ToFloat(Int x) { return _mm256_cvtepi32_ps(x); }
  INGOT_INLINE static Int Round(__m256 x) { return _mm256_cvtps_epi32(x); }
  INGOT_INLINE static Int AddInts(Int a, Int b) { return _mm256_add_epi32(a, b); }
  INGOT_INLINE static Int NibbleOf(Int x, int n) {
    return _mm256_and_si256(_mm256_srli_epi32(x, 4 * n), _mm256_set1_epi32(15));
  }
  INGOT_INLINE static __m256 Nibble(Int x, int n) { return ToFloat(NibbleOf(x, n)); }
  INGOT_INLINE static __m256 Byte(Int x, int n) {
    return ToFloat(_mm256_srai_epi32(_mm256_slli_epi32(x, 24 - 8 * n), 24));
  }
  // A permutation takes the lowest three bits of an index; the fourth becomes the sign that a blend goes by.
  INGOT_INLINE static __m256 LookUp(const float* table, Int x, int n) {
    const Int index = _mm256_srli_epi32(x, 4 * n);
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }
  INGOT_INLINE static void Store8(int16_t* to, const Int (&ints)[1]) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(ints[0]), _mm256_extracti128_si256(ints[0], 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), words);
  }
  INGOT_INLINE static void Store8(int8_t* to, const Int (&ints)[1]) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(ints[0]), _mm256_extracti128_si256(ints[0], 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
  }
};

// sum += products of pairs, in place. From intrinsics GCC makes all products first, or moves sums about, and has too
// few registers for that: a sum that goes through memory costs more than its products.
INGOT_INLINE void AddWords(__m256i& sum, __m256i a, __m256i b) {
  __m256i products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
}
INGOT_INLINE void AddBytes(__m256i& sum, __m256i codes, __m256i x) {
  __m256i products;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(codes), "x"(x));
}

// Loads that vectors of 32 bytes share.
struct Avx2Bytes {
  using Int = __m256i;
  using Table = __m256i;

  INGOT_INLINE static Table LoadTable(const int8_t* table) {
    if (table == nullptr) return _mm256_setzero_si256();
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  }
  INGOT_INLINE static Int LoadNibbles(const uint8_t* at, int part) {
    const Int bytes = Avx2Lanes::LoadInts(at);
    return _mm256_and_si256(part == 0 ? bytes : _mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
  }
  template <Codes kCodes>
  INGOT_INLINE static Int LoadSigned(const uint8_t* at, int part, Table table) {
    if constexpr (kCodes == Codes::kBytes) return Avx2Lanes::LoadInts(at + part * kPanel * 4);
    return _mm256_shuffle_epi8(table, LoadNibbles(at, part));
  }
  INGOT_INLINE static Int Broadcast(const int8_t* from) {
    int32_t four;
    __builtin_memcpy(&four, from, sizeof(four));
    return _mm256_set1_epi32(four);
  }
};

// Nibbles: unsigned bytes times signed ones are added up in pairs (vpmaddubsw), and these in 16 bits. A pair is at most
// 2 * 15 * 127 = 3,810, and the 8 of a run of 32 are 30,480: nothing saturates.
struct Avx2Nibbles : Avx2Bytes {
  using Lanes = Avx2Lanes;
  using Operand = int8_t;
  using Weights = __m256i;
  using X = __m256i;
  using Sums = __m256i;
  static constexpr int kOffset = 8;
  static constexpr int64_t kMostRun = 32;
  static constexpr int kTileRows = 4;
  static constexpr int kPanels = 1;
  static constexpr int kUnit = 1;
  static constexpr int kParts = 2;
  static constexpr bool kExpands = false;
  static constexpr int Vectors(int) { return 2; }

  template <Codes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int part, Table) {
    return LoadNibbles(at, part);
  }
  INGOT_INLINE static X LoadX(const Operand* at, int part) { return Broadcast(at + part * 4); }
  INGOT_INLINE static Sums Begin(const int32_t*) { return _mm256_setzero_si256(); }
  INGOT_INLINE static void Add(Sums& sums, Weights w, X x) { AddBytes(sums, w, x); }
  INGOT_INLINE static void Finish(Sums sums, const int32_t* starts, Int (&out)[1]) {
    out[0] = _mm256_add_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)), _mm256_set1_epi32(starts[0]));
  }
};

// Bytes: both operands in 16 bits, pairs added up in 32 (vpmaddwd). A lane holds two k of a column: the vectors of
// columns 0 to 3 and 4 to 7 have two lanes for each, which are added up last.
struct Avx2Words : Avx2Bytes {
  using Lanes = Avx2Lanes;
  using Operand = int16_t;
  struct Weights {
    __m256i low, high;
  };
  using X = __m256i;
  struct Sums {
    __m256i low, high;
  };
  static constexpr int kOffset = 0;
  static constexpr int64_t kMostRun = kChunk / 2;
  static constexpr int kTileRows = 6;
  static constexpr int kPanels = 1;
  static constexpr int kUnit = 1;
  static constexpr int kParts = 2;
  static constexpr bool kExpands = false;
  static constexpr int Vectors(int rows) { return rows <= 2 ? 2 : 1; }

  template <Codes kCodes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int part, Table table) {
    if constexpr (kCodes == Codes::kBytes) {
      const auto* from = reinterpret_cast<const __m128i*>(at + part * kPanel * 4);
      return {_mm256_cvtepi8_epi16(_mm_loadu_si128(from)), _mm256_cvtepi8_epi16(_mm_loadu_si128(from + 1))};
    }
    const Int bytes = LoadSigned<kCodes>(at, part, table);
    return {_mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)),
            _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1))};
  }
  INGOT_INLINE static X LoadX(const Operand* at, int part) {
    int64_t four;
    __builtin_memcpy(&four, at + part * 4, sizeof(four));
    return _mm256_set1_epi64x(four);
  }
  INGOT_INLINE static Sums Begin(const int32_t*) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  INGOT_INLINE static void Add(Sums& sums, const Weights& w, X x) {
    AddWords(sums.low, w.low, x);
    AddWords(sums.high, w.high, x);
  }
  INGOT_INLINE static void Finish(const Sums& sums, const int32_t*, Int (&out)[1]) {
    out[0] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums.low, sums.high), 0b11011000);
  }
};

}  // namespace ingot::quantized_matmul
