#include "cpu/quantized_matmul/neon.h"

namespace ingot::quantized_matmul {
namespace {

// Products of two rows by two columns over eight k, added to 32 bits (smmla).
struct NeonI8mmEngine : NeonBytes {
  using Lanes = NeonLanes;
  using Operand = int8_t;
  struct Weights {
    int8x16_t low, high;  // columns 0 and 1, and 2 and 3
  };
  using X = int8x16_t;
  struct Sums {
    int32x4_t low, high;  // {row 0 of two columns, row 1 of them}
  };
  static constexpr int kOffset = 0;
  static constexpr int64_t kMostRun = kChunk;
  static constexpr int kTileRows = 4;
  static constexpr int kPanels = 1;
  static constexpr int kUnit = 2;
  static constexpr int kParts = 1;
  static constexpr bool kExpands = false;
  static constexpr int Vectors(int) { return 4; }

  template <Codes kCodes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int, Table table) {
    const Codes8 codes = LoadCodes<kCodes>(at, table);
    const int32x4_t first = vreinterpretq_s32_s8(codes.first), second = vreinterpretq_s32_s8(codes.second);
    return {vreinterpretq_s8_s32(vzip1q_s32(first, second)), vreinterpretq_s8_s32(vzip2q_s32(first, second))};
  }
  INGOT_INLINE static X LoadX(const Operand* at, int) { return vld1q_s8(at); }
  INGOT_INLINE static Sums Begin(const int32_t*) { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  INGOT_INLINE static void Add(Sums& sums, const Weights& w, X x) {
    sums.low = vmmlaq_s32(sums.low, x, w.low);
    sums.high = vmmlaq_s32(sums.high, x, w.high);
  }
  INGOT_INLINE static void Finish(const Sums& sums, const int32_t*, Int (&out)[2]) {
    out[0] = vcombine_s32(vget_low_s32(sums.low), vget_low_s32(sums.high));
    out[1] = vcombine_s32(vget_high_s32(sums.low), vget_high_s32(sums.high));
  }
};

}  // namespace

constinit const Path kPathNeonI8mm = Implementation<NeonI8mmEngine, NeonI8mmEngine, NeonLanes>::kPath;

}  // namespace ingot::quantized_matmul
