#include "cpu/quantized_matmul/avx512.h"

namespace ingot::quantized_matmul {
namespace {

// Dot products of four unsigned by four signed bytes, added to 32 bits. Codes are unsigned: nibbles as they are, bytes
// with the highest bit turned round.
template <int kAdded>
struct Avx512VnniEngine : Avx512Bytes {
  using Lanes = Avx512Lanes;
  using Operand = int8_t;
  using Weights = __m512i;
  using X = __m512i;
  using Sums = __m512i;
  static constexpr int kOffset = kAdded;
  static constexpr int64_t kMostRun = kChunk;
  static constexpr int kTileRows = 12;
  // 12 rows by two panels are 24 sums, and read each number of X once for two products: loads of both operands would
  // bound the time.
  static constexpr int kPanels = 2;
  static constexpr int kUnit = 1;
  static constexpr int kParts = 2;
  static constexpr bool kExpands = true;
  static constexpr int Vectors(int) { return 1; }

  template <Codes kCodes>
  INGOT_INLINE static Weights Load(const uint8_t* at, int part, Table table) {
    if constexpr (kCodes == Codes::kNibbles) return LoadNibbles(at, part);
    return _mm512_xor_si512(LoadSigned<kCodes>(at, part, table), _mm512_set1_epi8(-128));
  }
  INGOT_INLINE static X LoadX(const Operand* at, int part) { return Broadcast(at + part * 4); }
  INGOT_INLINE static Sums Begin(const int32_t* starts) { return _mm512_set1_epi32(starts[0]); }
  INGOT_INLINE static void Add(Sums& sums, Weights w, X x) {
    // In place: compilers copy sums, of which the largest tile has nearly as many as there are registers.
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
  }
  INGOT_INLINE static void Finish(Sums sums, const int32_t*, Int (&out)[1]) { out[0] = sums; }
};

}  // namespace

constinit const Path kPathAvx512Vnni = Implementation<Avx512VnniEngine<8>, Avx512VnniEngine<128>, Avx2Lanes>::kPath;

}  // namespace ingot::quantized_matmul
