// The reference: four lanes as compilers lower their own vectors, products element by element.
#pragma once

#include "cpu/quantized_matmul/path.h"

namespace ingot::quantized_matmul {

struct PortableLanes {
  using V = simd::Portable;
  using Int = V::Bits;
  static constexpr int kVectors = 4;
  static constexpr int kTileRows = 2;

  INGOT_INLINE static Int LoadInts(const void* from) {
    Int x;
    __builtin_memcpy(&x, from, sizeof(x));
    return x;
  }
  INGOT_INLINE static V::Float ToFloat(Int x) { return __builtin_convertvector(x, V::Float); }
  INGOT_INLINE static Int Round(V::Float x) {
    // At 1.5 * 2^23 the unit in the last place is 1: the addition rounds to an integer.
    const auto magic = V::Set(12582912.0f);
    return __builtin_convertvector((x + magic) - magic, Int);
  }
  INGOT_INLINE static Int AddInts(Int a, Int b) { return a + b; }
  INGOT_INLINE static V::Float Nibble(Int x, int n) { return ToFloat((x >> (4 * n)) & 15); }
  INGOT_INLINE static V::Float Byte(Int x, int n) { return ToFloat((x << (24 - 8 * n)) >> 24); }
  INGOT_INLINE static V::Float LookUp(const float* table, Int x, int n) {
    const Int index = (x >> (4 * n)) & 15;
    return V::Float{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
  }
  INGOT_INLINE static void Store8(int8_t* to, const Int (&ints)[2]) {
    for (int i = 0; i < 8; ++i) to[i] = static_cast<int8_t>(ints[i / 4][i % 4]);
  }
};

struct PortableEngine {
  using Lanes = PortableLanes;
  using Int = PortableLanes::Int;
  using Operand = int8_t;
  struct Weights {
    int32_t codes[4][kStep];  // of four columns
  };
  using X = const int8_t*;
  using Sums = Int;
  using Table = const int8_t*;
  static constexpr int kOffset = 0;
  static constexpr int64_t kMostRun = kChunk;
  static constexpr int kTileRows = 2;
  static constexpr int kPanels = 1;
  static constexpr int kUnit = 1;
  static constexpr int kParts = 1;
  static constexpr bool kExpands = false;
  static constexpr int Vectors(int) { return 4; }

  INGOT_INLINE static Table LoadTable(const int8_t* table) { return table; }
  template <Codes kCodes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int, Table table) {
    Weights w;
    for (int column = 0; column < 4; ++column) {
      for (int k = 0; k < 4; ++k) {
        const uint8_t* byte = at + column * 4 + k;
        for (int half = 0; half < 2; ++half) {
          int32_t& code = w.codes[column][half * 4 + k];
          const int nibble = half == 0 ? *byte & 15 : *byte >> 4;
          if constexpr (kCodes == Codes::kBytes) {
            code = static_cast<int8_t>(byte[half * kPanel * 4]);
          } else {
            code = kCodes == Codes::kNibbles ? nibble - 8 : table[nibble];
          }
        }
      }
    }
    return w;
  }
  INGOT_INLINE static X LoadX(const Operand* at, int) { return at; }
  INGOT_INLINE static Sums Begin(const int32_t*) { return Int{}; }
  INGOT_INLINE static void Add(Sums& sums, const Weights& w, X x) {
    for (int column = 0; column < 4; ++column)
      for (int k = 0; k < kStep; ++k) sums[column] += w.codes[column][k] * x[k];
  }
  INGOT_INLINE static void Finish(Sums sums, const int32_t*, Int (&out)[1]) { out[0] = sums; }
};

}  // namespace ingot::quantized_matmul
