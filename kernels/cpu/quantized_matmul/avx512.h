// AVX-512: the products of AVX2 (avx2.h) in vectors of 64 bytes.
#pragma once

#include "simd/vector_avx512.h"
// First, for what it says about the compiler's header.
#include "cpu/quantized_matmul/avx2.h"

namespace ingot::quantized_matmul {

struct Avx512Lanes {
  using V = simd::Avx512;
  using Int = __m512i;
  static constexpr int kVectors = 1;
  static constexpr int kTileRows = 12;

  INGOT_INLINE static Int LoadInts(const void* from) { return _mm512_loadu_si512(from); }
  INGOT_INLINE static __m512 ToFloat(Int x) { return _mm512_cvtepi32_ps(x); }
  INGOT_INLINE static __m512 Nibble(Int x, int n) {
    return ToFloat(_mm512_and_si512(_mm512_srli_epi32(x, static_cast<unsigned>(4 * n)), _mm512_set1_epi32(15)));
  }
  INGOT_INLINE static __m512 Byte(Int x, int n) {
    return ToFloat(_mm512_srai_epi32(_mm512_slli_epi32(x, static_cast<unsigned>(24 - 8 * n)), 24));
  }
  // A permutation takes the lowest four bits of an index.
  INGOT_INLINE static __m512 LookUp(const float* table, Int x, int n) {
    return _mm512_permutexvar_ps(_mm512_srli_epi32(x, static_cast<unsigned>(4 * n)), _mm512_loadu_ps(table));
  }
};

// As those of avx2.h.
INGOT_INLINE void AddWords(__m512i& sum, __m512i a, __m512i b) {
  __m512i products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum), "=&v"(products) : "v"(a), "v"(b));
}
INGOT_INLINE void AddBytes(__m512i& sum, __m512i codes, __m512i x) {
  __m512i products;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(sum), "=&v"(products) : "v"(codes), "v"(x));
}

struct Avx512Bytes {
  using Int = __m512i;
  using Table = __m512i;

  INGOT_INLINE static Table LoadTable(const int8_t* table) {
    if (table == nullptr) return _mm512_setzero_si512();
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  }
  INGOT_INLINE static Int LoadNibbles(const uint8_t* at, int part) {
    const Int bytes = Avx512Lanes::LoadInts(at);
    return _mm512_and_si512(part == 0 ? bytes : _mm512_srli_epi16(bytes, 4), _mm512_set1_epi8(15));
  }
  template <Codes kCodes>
  INGOT_INLINE static Int LoadSigned(const uint8_t* at, int part, Table table) {
    if constexpr (kCodes == Codes::kBytes) return Avx512Lanes::LoadInts(at + part * kPanel * 4);
    return _mm512_shuffle_epi8(table, LoadNibbles(at, part));
  }
  INGOT_INLINE static Int Broadcast(const int8_t* from) {
    int32_t four;
    __builtin_memcpy(&four, from, sizeof(four));
    return _mm512_set1_epi32(four);
  }
};

// As Avx2Nibbles.
struct Avx512Nibbles : Avx512Bytes {
  using Lanes = Avx512Lanes;
  using Operand = int8_t;
  using Weights = __m512i;
  using X = __m512i;
  using Sums = __m512i;
  static constexpr int kOffset = 8;
  static constexpr int64_t kMostRun = 32;
  static constexpr int kTileRows = 12;
  static constexpr int kPanels = 1;
  static constexpr int kUnit = 1;
  static constexpr int kParts = 2;
  static constexpr bool kExpands = false;
  static constexpr int Vectors(int) { return 1; }

  template <Codes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int part, Table) {
    return LoadNibbles(at, part);
  }
  INGOT_INLINE static X LoadX(const Operand* at, int part) { return Broadcast(at + part * 4); }
  INGOT_INLINE static Sums Begin(const int32_t*) { return _mm512_setzero_si512(); }
  INGOT_INLINE static void Add(Sums& sums, Weights w, X x) { AddBytes(sums, w, x); }
  INGOT_INLINE static void Finish(Sums sums, const int32_t* starts, Int (&out)[1]) {
    out[0] = _mm512_add_epi32(_mm512_madd_epi16(sums, _mm512_set1_epi16(1)), _mm512_set1_epi32(starts[0]));
  }
};

// As Avx2Words: columns 0 to 7 and 8 to 15.
struct Avx512Words : Avx512Bytes {
  using Lanes = Avx512Lanes;
  using Operand = int16_t;
  struct Weights {
    __m512i low, high;
  };
  using X = __m512i;
  struct Sums {
    __m512i low, high;
  };
  static constexpr int kOffset = 0;
  static constexpr int64_t kMostRun = kChunk / 2;
  static constexpr int kTileRows = 12;
  static constexpr int kPanels = 1;
  static constexpr int kUnit = 1;
  static constexpr int kParts = 2;
  static constexpr bool kExpands = false;
  static constexpr int Vectors(int) { return 1; }

  template <Codes kCodes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int part, Table table) {
    const Int bytes = LoadSigned<kCodes>(at, part, table);
    return {_mm512_cvtepi8_epi16(_mm512_castsi512_si256(bytes)),
            _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(bytes, 1))};
  }
  INGOT_INLINE static X LoadX(const Operand* at, int part) {
    int64_t four;
    __builtin_memcpy(&four, at + part * 4, sizeof(four));
    return _mm512_set1_epi64(four);
  }
  INGOT_INLINE static Sums Begin(const int32_t*) { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  INGOT_INLINE static void Add(Sums& sums, const Weights& w, X x) {
    AddWords(sums.low, w.low, x);
    AddWords(sums.high, w.high, x);
  }
  INGOT_INLINE static void Finish(const Sums& sums, const int32_t*, Int (&out)[1]) {
    const Int even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Int odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    out[0] = _mm512_add_epi32(_mm512_permutex2var_epi32(sums.low, even, sums.high),
                              _mm512_permutex2var_epi32(sums.low, odd, sums.high));
  }
};

}  // namespace ingot::quantized_matmul
