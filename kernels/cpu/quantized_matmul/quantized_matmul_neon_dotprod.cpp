#include "cpu/quantized_matmul/neon.h"

namespace ingot::quantized_matmul {
namespace {

// Dot products of four bytes, added to 32 bits (sdot). A vector of X is two rows of eight k.
struct NeonDotprodEngine : NeonBytes {
  using Lanes = NeonLanes;
  using Operand = int8_t;
  using Weights = Codes8;
  using X = int8x16_t;
  struct Sums {
    int32x4_t rows[2];
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
    return LoadCodes<kCodes>(at, table);
  }
  INGOT_INLINE static X LoadX(const Operand* at, int) { return vld1q_s8(at); }
  INGOT_INLINE static Sums Begin(const int32_t*) { return {{vdupq_n_s32(0), vdupq_n_s32(0)}}; }
  INGOT_INLINE static void Add(Sums& sums, const Weights& w, X x) {
    sums.rows[0] = vdotq_laneq_s32(vdotq_laneq_s32(sums.rows[0], w.first, x, 0), w.second, x, 1);
    sums.rows[1] = vdotq_laneq_s32(vdotq_laneq_s32(sums.rows[1], w.first, x, 2), w.second, x, 3);
  }
  INGOT_INLINE static void Finish(const Sums& sums, const int32_t*, Int (&out)[2]) {
    out[0] = sums.rows[0];
    out[1] = sums.rows[1];
  }
};

}  // namespace

constinit const Path kPathNeonDotprod = Implementation<NeonDotprodEngine, NeonDotprodEngine, NeonLanes>::kPath;

}  // namespace ingot::quantized_matmul
