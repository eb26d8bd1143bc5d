// Dot products of four unsigned by four signed bytes, added to 32 bits: vpdpbusd in its AVX encoding.
#pragma once

#include "cpu/quantized_matmul/avx2.h"

namespace ingot::quantized_matmul {

// Codes are unsigned: nibbles as they are, bytes with the highest bit turned round.
template <int kAdded>
struct AvxVnniEngine : Avx2Bytes {
  using Lanes = Avx2Lanes;
  using Operand = int8_t;
  using Weights = __m256i;
  using X = __m256i;
  using Sums = __m256i;
  static constexpr int kOffset = kAdded;
  static constexpr int64_t kMostRun = kChunk;
  static constexpr int kTileRows = 8;
  static constexpr int kPanels = 1;
  static constexpr int kUnit = 1;
  static constexpr int kParts = 2;
  static constexpr bool kExpands = true;
  static constexpr int Vectors(int rows) { return rows <= 4 ? 2 : 1; }

  template <Codes kCodes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int part, Table table) {
    if constexpr (kCodes == Codes::kNibbles) return LoadNibbles(at, part);
    return _mm256_xor_si256(LoadSigned<kCodes>(at, part, table), _mm256_set1_epi8(-128));
  }
  INGOT_INLINE static X LoadX(const Operand* at, int part) { return Broadcast(at + part * 4); }
  INGOT_INLINE static Sums Begin(const int32_t* starts) { return _mm256_set1_epi32(starts[0]); }
  INGOT_INLINE static void Add(Sums& sums, Weights w, X x) { sums = _mm256_dpbusd_avx_epi32(sums, w, x); }
  INGOT_INLINE static void Finish(Sums sums, const int32_t*, Int (&out)[1]) { out[0] = sums; }
};

}  // namespace ingot::quantized_matmul
