// AArch64: the lanes, loads that its engines share, and products for every machine.
#pragma once

#include "cpu/quantized_matmul/path.h"
#include "simd/vector_neon.h"

namespace ingot::quantized_matmul {

struct NeonLanes {
  using V = simd::Neon;
  using Int = int32x4_t;
  static constexpr int kVectors = 4;
  static constexpr int kTileRows = 6;

  INGOT_INLINE static Int LoadInts(const void* from) {
    return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(from)));
  }
  INGOT_INLINE static float32x4_t ToFloat(Int x) { return vcvtq_f32_s32(x); }
  INGOT_INLINE static Int Round(float32x4_t x) { return vcvtnq_s32_f32(x); }
  INGOT_INLINE static Int AddInts(Int a, Int b) { return vaddq_s32(a, b); }
  INGOT_INLINE static uint32x4_t NibbleOf(Int x, int n) {
    return vandq_u32(vshlq_u32(vreinterpretq_u32_s32(x), vdupq_n_s32(-4 * n)), vdupq_n_u32(15));
  }
  INGOT_INLINE static float32x4_t Nibble(Int x, int n) { return vcvtq_f32_u32(NibbleOf(x, n)); }
  INGOT_INLINE static float32x4_t Byte(Int x, int n) {
    return ToFloat(vshrq_n_s32(vshlq_s32(x, vdupq_n_s32(24 - 8 * n)), 24));
  }
  // The table is 64 bytes; number i is its bytes 4 i to 4 i + 3.
  INGOT_INLINE static float32x4_t LookUp(const float* table, Int x, int n) {
    const uint32x4_t bytes = vmlaq_u32(vdupq_n_u32(0x03020100), NibbleOf(x, n), vdupq_n_u32(0x04040404));
    const uint8x16x4_t numbers = vld1q_u8_x4(reinterpret_cast<const uint8_t*>(table));
    return vreinterpretq_f32_u8(vqtbl4q_u8(numbers, vreinterpretq_u8_u32(bytes)));
  }
  INGOT_INLINE static void Store8(int8_t* to, const Int (&ints)[2]) {
    vst1_s8(to, vqmovn_s16(vcombine_s16(vqmovn_s32(ints[0]), vqmovn_s32(ints[1]))));
  }
};

// Eight k of four columns: the signed codes of k 0 to 3 and of k 4 to 7.
struct NeonBytes {
  using Int = int32x4_t;
  using Table = int8x16_t;
  struct Codes8 {
    int8x16_t first, second;
  };

  INGOT_INLINE static Table LoadTable(const int8_t* table) {
    return table == nullptr ? vdupq_n_s8(0) : vld1q_s8(table);
  }
  template <Codes kCodes>
  INGOT_INLINE static Codes8 LoadCodes(const uint8_t* at, Table table) {
    const uint8x16_t bytes = vld1q_u8(at);
    if constexpr (kCodes == Codes::kBytes)
      return {vreinterpretq_s8_u8(bytes), vreinterpretq_s8_u8(vld1q_u8(at + kPanel * 4))};
    const uint8x16_t low = vandq_u8(bytes, vdupq_n_u8(15)), high = vshrq_n_u8(bytes, 4);
    if constexpr (kCodes == Codes::kTable) return {vqtbl1q_s8(table, low), vqtbl1q_s8(table, high)};
    const int8x16_t eight = vdupq_n_s8(8);
    return {vsubq_s8(vreinterpretq_s8_u8(low), eight), vsubq_s8(vreinterpretq_s8_u8(high), eight)};
  }
};

// Products of bytes are added up in 16 bits two at a time (2 * 128 * 127 is below 2^15), then pairs of these in 32. A
// lane holds two k of a column: the vectors of columns 0 and 1, and 2 and 3, have two lanes for each.
struct NeonEngine : NeonBytes {
  using Lanes = NeonLanes;
  using Operand = int8_t;
  using Weights = Codes8;
  using X = Codes8;
  struct Sums {
    int32x4_t low, high;
  };
  static constexpr int kOffset = 0;
  static constexpr int64_t kMostRun = kChunk;
  static constexpr int kTileRows = 2;
  static constexpr int kPanels = 1;
  static constexpr int kUnit = 1;
  static constexpr int kParts = 1;
  static constexpr bool kExpands = false;
  static constexpr int Vectors(int) { return 4; }

  template <Codes kCodes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int, Table table) {
    return LoadCodes<kCodes>(at, table);
  }
  INGOT_INLINE static X LoadX(const Operand* at, int) {
    const int32x2_t eight = vreinterpret_s32_s8(vld1_s8(at));
    return {vreinterpretq_s8_s32(vdupq_lane_s32(eight, 0)), vreinterpretq_s8_s32(vdupq_lane_s32(eight, 1))};
  }
  INGOT_INLINE static Sums Begin(const int32_t*) { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  INGOT_INLINE static void Add(Sums& sums, const Weights& w, const X& x) {
    const int16x8_t low =
        vmlal_s8(vmull_s8(vget_low_s8(w.first), vget_low_s8(x.first)), vget_low_s8(w.second), vget_low_s8(x.second));
    const int16x8_t high = vmlal_high_s8(vmull_high_s8(w.first, x.first), w.second, x.second);
    sums.low = vpadalq_s16(sums.low, low);
    sums.high = vpadalq_s16(sums.high, high);
  }
  INGOT_INLINE static void Finish(const Sums& sums, const int32_t*, Int (&out)[1]) {
    out[0] = vpaddq_s32(sums.low, sums.high);
  }
};

}  // namespace ingot::quantized_matmul
