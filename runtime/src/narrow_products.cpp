#include "narrow_products.h"

#include <algorithm>
#include <span>

#include "machine.h"
#include "registry.h"

namespace ingot {
namespace {

constexpr int64_t kRounds = 200000;
constexpr int64_t kMatrixRounds = 16;  // a product of matrices takes 16 cycles
constexpr int kChains = 12;            // as for float32: a latency of 4 to 5 cycles times 2 units, within 16 registers

// A loop is assembly as a whole: a compiler would multiply equal operands once, before it. Registers 0 to 11 are the
// sums, 13 and 14 the operands, 15 holds products; whatever they hold at first, integers are multiplied in equal time.
#define INGOT_TWELVE(step)                                                                                       \
  step("0") step("1") step("2") step("3") step("4") step("5") step("6") step("7") step("8") step("9") step("10") \
      step("11")

#if defined(__x86_64__)
#define INGOT_LOOP(step, end)                                                                                          \
  int64_t left = kRounds;                                                                                              \
  __asm__ volatile("1:\n\t" INGOT_TWELVE(step) "dec %0\n\tjnz 1b\n\t" end                                              \
                   : "+r"(left)                                                                                        \
                   :                                                                                                   \
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                     "xmm13", "xmm14", "xmm15", "cc")

// Four products in each lane of 32 bits.
#define INGOT_VNNI_ZMM(sum) "vpdpbusd %%zmm13, %%zmm14, %%zmm" sum "\n\t"
#define INGOT_VNNI_YMM(sum) "%{vex%} vpdpbusd %%ymm13, %%ymm14, %%ymm" sum "\n\t"
// Pairs of products added up in 16 bits, as kernels do that widen the sums of several pairs at once.
#define INGOT_PAIRS_ZMM(sum) "vpmaddubsw %%zmm13, %%zmm14, %%zmm15\n\tvpaddw %%zmm15, %%zmm" sum ", %%zmm" sum "\n\t"
#define INGOT_PAIRS_YMM(sum) "vpmaddubsw %%ymm13, %%ymm14, %%ymm15\n\tvpaddw %%ymm15, %%ymm" sum ", %%ymm" sum "\n\t"
// Two products in each lane of 32 bits.
#define INGOT_BFLOAT_ZMM(sum) "vdpbf16ps %%zmm13, %%zmm14, %%zmm" sum "\n\t"
// SSE2 multiplies words.
#define INGOT_WORDS(sum) "movdqa %%xmm13, %%xmm15\n\tpmaddwd %%xmm14, %%xmm15\n\tpaddd %%xmm15, %%xmm" sum "\n\t"

// Matrices of 16 rows by 16 columns over 64 bytes: four sums, three times.
#define INGOT_FOUR_MATRICES(step)                                                                               \
  step " %%tmm5, %%tmm4, %%tmm0\n\t" step " %%tmm5, %%tmm4, %%tmm1\n\t" step " %%tmm5, %%tmm4, %%tmm2\n\t" step \
       " %%tmm5, %%tmm4, %%tmm3\n\t"
#define INGOT_MATRIX_LOOP(step)                            \
  struct alignas(64) {                                     \
    uint8_t palette = 1, start_row = 0, reserved[14] = {}; \
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64};         \
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16};           \
  } shape;                                                 \
  int64_t left = kRounds / kMatrixRounds;                  \
  __asm__ volatile("ldtilecfg %1\n\ttilezero %%tmm4\n\ttilezero %%tmm5\n\t"                            \
                   "1:\n\t" INGOT_FOUR_MATRICES(step) INGOT_FOUR_MATRICES(step) INGOT_FOUR_MATRICES(step) \
                   "dec %0\n\tjnz 1b\n\t"                                                              \
                   "tilerelease"                                                                       \
                   : "+r"(left)                                                                        \
                   : "m"(shape)                                                                        \
                   : "cc")

void Matrices() { INGOT_MATRIX_LOOP("tdpbssd"); }
void BfloatMatrices() { INGOT_MATRIX_LOOP("tdpbf16ps"); }
void BfloatZmm() { INGOT_LOOP(INGOT_BFLOAT_ZMM, "vzeroupper"); }
void VnniZmm() { INGOT_LOOP(INGOT_VNNI_ZMM, "vzeroupper"); }
void VnniYmm() { INGOT_LOOP(INGOT_VNNI_YMM, "vzeroupper"); }
void PairsZmm() { INGOT_LOOP(INGOT_PAIRS_ZMM, "vzeroupper"); }
void PairsYmm() { INGOT_LOOP(INGOT_PAIRS_YMM, "vzeroupper"); }
void Words() { INGOT_LOOP(INGOT_WORDS, ""); }
#else
#define INGOT_LOOP(step, begin)                                                                                     \
  int64_t left = kRounds;                                                                                           \
  __asm__ volatile(begin "1:\n\t" INGOT_TWELVE(step) "subs %0, %0, #1\n\tb.ne 1b"                                   \
                   : "+r"(left)                                                                                     \
                   :                                                                                                \
                   : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v13", "v14", "v15", \
                     "cc")

// Two rows by two columns over eight k.
#define INGOT_MATRICES(sum) "smmla v" sum ".4s, v13.16b, v14.16b\n\t"
#define INGOT_BFLOAT_MATRICES(sum) "bfmmla v" sum ".4s, v13.8h, v14.8h\n\t"
#define INGOT_DOT_PRODUCTS(sum) "sdot v" sum ".4s, v13.16b, v14.16b\n\t"
#define INGOT_LONG(sum) "smlal v" sum ".8h, v13.8b, v14.8b\n\t"

void Matrices() { INGOT_LOOP(INGOT_MATRICES, ".arch armv8.2-a+i8mm\n\t"); }
void BfloatMatrices() { INGOT_LOOP(INGOT_BFLOAT_MATRICES, ".arch armv8.2-a+bf16\n\t"); }
void DotProducts() { INGOT_LOOP(INGOT_DOT_PRODUCTS, ".arch armv8.2-a+dotprod\n\t"); }
void Long() { INGOT_LOOP(INGOT_LONG, ""); }
#endif

struct Row {
  const char* feature;  // that it needs, by Linux's name; nullptr for the architecture's baseline
  int products;         // of a step, on average over the rounds of all
  void (*run)();
};

// The fastest first.
constexpr Row kBytes[] = {
#if defined(__x86_64__)
    {"amx_int8", 16 * 16 * 64 / kMatrixRounds, Matrices},
    {"avx512_vnni", 64, VnniZmm},
    {"avx512bw", 64, PairsZmm},
    {"avx_vnni", 32, VnniYmm},
    {"avx2", 32, PairsYmm},
    {nullptr, 8, Words},
#else
    {"i8mm", 32, Matrices},
    {"asimddp", 16, DotProducts},
    {nullptr, 8, Long},
#endif
};

constexpr Row kBfloats[] = {
#if defined(__x86_64__)
    {"amx_bf16", 16 * 16 * 32 / kMatrixRounds, BfloatMatrices},
    {"avx512_bf16", 32, BfloatZmm},
#else
    {"bf16", 16, BfloatMatrices},
#endif
    {nullptr, 0, nullptr},
};

double Multiply(const Row& row) {
  if (row.run == nullptr) return 0;
  row.run();
  return 2.0 * row.products * kChains * static_cast<double>(kRounds);
}

const Row& BestOf(std::span<const Row> rows) {
  return *std::ranges::find_if(rows, [](const Row& row) {
    return row.feature == nullptr || (HasFeature(row.feature) && !Forbidden(row.feature));
  });
}

}  // namespace

double MultiplyBytes() { return Multiply(BestOf(kBytes)); }

double MultiplyBfloats() { return Multiply(BestOf(kBfloats)); }

}  // namespace ingot
