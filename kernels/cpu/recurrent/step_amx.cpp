// One time step in matrices of bfloat16: up to eight rows at once, each of its inputs the sum of two bfloat16, which
// are two rows of a matrix (within 2^-17; numbers too small for bfloat16's exponents are zeros). At one row the weights
// of a block come through the registers of matrices faster than vectors can multiply them.
#include "cpu/recurrent/cells.h"
#include "simd/amx.h"

namespace ingot::recurrent {
namespace {

struct Lanes : simd::Avx512 {};

struct Machine {
  using Wide = Lanes;
  using Units = simd::Avx2;
};

constexpr int kDepth = Layout<Bfloat16>::kDepth;  // k of a register
constexpr int64_t kMostHidden = 2048;             // units whose inputs the stack holds
constexpr int64_t kMostRows = simd::kMatrixRows / 2;
constexpr int64_t kColumns = 16;  // of a register

// Rows a page apart would share a set of the first-level cache.
constexpr int64_t kStride = kMostHidden + kDepth;

// The inputs of the rows, [2 rows, kMostHidden]: numbers rounded to bfloat16, and what is left of them.
struct Inputs {
  alignas(64) uint16_t parts[simd::kMatrixRows][kStride];
};

void SplitRow(const float* from, int64_t count, int64_t depth, uint16_t* rounded, uint16_t* rest) {
  const __m512 infinity = _mm512_set1_ps(__builtin_inff());
  for (int64_t k = 0; k < depth; k += kColumns) {
    const int64_t left = count - k;
    const auto mask = static_cast<__mmask16>(left >= kColumns ? 0xFFFF : left <= 0 ? 0 : (1u << left) - 1);
    const __m512 x = _mm512_maskz_loadu_ps(mask, from + k);
    const auto high = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    const __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    // Of an infinity nothing is left.
    const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(wide), infinity, _CMP_LT_OQ);
    const auto low = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_sub_ps(finite, x, wide)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rounded + k), high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(rest + k), low);
  }
}

// sums [2 rows, kWidth] = inputs times a block of weights.
template <int kWidth>
INGOT_INLINE void MultiplyBlock(const Inputs& inputs, const Bfloat16* block, int64_t depth, float* sums) {
  constexpr int kRowBytes = kWidth * 4;  // of two k
  _tile_zero(0);
  if constexpr (kWidth > kColumns) _tile_zero(1);
  for (int64_t k = 0; k < depth; k += kDepth) {
    _tile_loadd(4, &inputs.parts[0][k], kStride * 2);
    _tile_loadd(6, block + k * kWidth, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kWidth > kColumns) {
      _tile_loadd(7, block + k * kWidth + 2 * kColumns, kRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
  }
  _tile_stored(0, sums, kRowBytes);
  if constexpr (kWidth > kColumns) _tile_stored(1, sums + kColumns, kRowBytes);
}

struct Matrices {
  template <template <typename> typename CellOf, typename W>
  static void RunBlocks(const Step<float, W>& step) {
    if (step.hidden_size > kMostHidden) return Vectors<Machine>::RunBlocks<CellOf>(step);
    for (int64_t row = 0; row < step.row_count; row += kMostRows) {
      const int64_t left = step.row_count - row;
      RunGroup<CellOf>(step, step.rows + row, left < kMostRows ? left : kMostRows);
    }
  }

 private:
  template <template <typename> typename CellOf, typename W>
  static void RunGroup(const Step<float, W>& step, const Row<float>* rows, int64_t count) {
    using Cell = CellOf<Machine::Units>;
    constexpr int kGates = Cell::kGates;
    constexpr int kWidth = kGates * static_cast<int>(kLanes);
    Inputs inputs;
    for (int64_t r = 0; r < count; ++r)
      SplitRow(Cell::Source(rows[r]), step.hidden_size, step.depth, inputs.parts[2 * r], inputs.parts[2 * r + 1]);
    constexpr int64_t kFirst = kWidth < kColumns ? kWidth : kColumns;
    constexpr int64_t kSecond = kWidth > kColumns ? kWidth - kColumns : kFirst;
    const simd::Matrices::Register first{2 * count, kFirst * 4}, second{2 * count, kSecond * 4};
    const simd::Matrices::Register a{2 * count, kDepth * 2};
    const simd::Matrices registers(
        {first, second, first, second, a, a, {kDepth / 2, kFirst * 4}, {kDepth / 2, kSecond * 4}});
    for (int64_t i = step.first_block; i < step.end_block; ++i) {
      const int64_t index = BlockAt(step, i);
      alignas(64) float products[2 * kMostRows][kGates][kLanes];
      MultiplyBlock<kWidth>(inputs, BlockWeights<kGates>(step, index), step.depth, &products[0][0][0]);
      for (int64_t r = 0; r < count; ++r) {
        Sums<kGates, 1> sums;
        StartRow<Machine, CellOf>(step, index, rows[r], sums.values[0]);
        for (int g = 0; g < kGates; ++g) {
          for (int lane = 0; lane < kLanes; ++lane)
            sums.values[0][g][lane] += products[2 * r][g][lane] + products[2 * r + 1][g][lane];
        }
        FinishRow<Machine, CellOf>(step, index, rows[r], sums.values[0]);
      }
    }
  }
};

}  // namespace

StepFunctions StepsAmx() {
  StepFunctions steps = StepsOf<Machine>();
  steps.bfloat16 = RunStep<Matrices, Bfloat16>;
  return steps;
}

}  // namespace ingot::recurrent
