// AVX2 and FMA: blocks of eight units, several rows at once. At one row the weights stream from the cache, and loads
// bound the time; at more rows each load serves all of them.
#if defined(__x86_64__)
#include <immintrin.h>

#include "cpu/recurrent/step.h"

namespace ingot::recurrent {
namespace {

using V = __m256;

// A loop of constant length without a loop: arrays of vectors stay in registers only if every index is known.
#define UNROLLED(index, count) _Pragma("GCC unroll 16") for (int index = 0; index < (count); ++index)

V Set(float x) { return _mm256_set1_ps(x); }

// exp by Cephes: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. NaN stays NaN: max and min give their second operand.
V Exp(V x) {
  x = _mm256_min_ps(Set(88.3762626647949f), _mm256_max_ps(Set(-87.3365478515625f), x));
  const V n =
      _mm256_round_ps(_mm256_mul_ps(x, Set(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  V r = _mm256_fnmadd_ps(n, Set(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, Set(-2.12194440e-4f), r);
  V p = Set(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, Set(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, Set(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, Set(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, Set(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, Set(5.0000001201e-1f));
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), Set(1));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

V Sigmoid(V x) { return _mm256_div_ps(Set(1), _mm256_add_ps(Set(1), Exp(_mm256_sub_ps(_mm256_setzero_ps(), x)))); }

// tanh as the rational minimax approximation that Eigen uses (generic_fast_tanh_float): within 3 units in the last
// place.
V Tanh(V x) {
  const V magnitude = _mm256_andnot_ps(Set(-0.0f), x);
  const V c = _mm256_min_ps(Set(7.90531110763549805f), _mm256_max_ps(Set(-7.90531110763549805f), x));
  const V x2 = _mm256_mul_ps(c, c);
  V p = Set(-2.76076847742355e-16f);
  p = _mm256_fmadd_ps(p, x2, Set(2.00018790482477e-13f));
  p = _mm256_fmadd_ps(p, x2, Set(-8.60467152213735e-11f));
  p = _mm256_fmadd_ps(p, x2, Set(5.12229709037114e-08f));
  p = _mm256_fmadd_ps(p, x2, Set(1.48572235717979e-05f));
  p = _mm256_fmadd_ps(p, x2, Set(6.37261928875436e-04f));
  p = _mm256_fmadd_ps(p, x2, Set(4.89352455891786e-03f));
  p = _mm256_mul_ps(p, c);
  V q = Set(1.19825839466702e-06f);
  q = _mm256_fmadd_ps(q, x2, Set(1.18534705686654e-04f));
  q = _mm256_fmadd_ps(q, x2, Set(2.26843463243900e-03f));
  q = _mm256_fmadd_ps(q, x2, Set(4.89352518554385e-03f));
  const V tiny = _mm256_cmp_ps(magnitude, Set(0.0004f), _CMP_LT_OQ);
  return _mm256_blendv_ps(_mm256_div_ps(p, q), x, tiny);
}

V Apply(const Function<float>& function, V x) {
  switch (function.kind) {
    case Activation::kSigmoid:
      return Sigmoid(x);
    case Activation::kTanh:
      return Tanh(x);
    default: {
      alignas(32) float values[kLanes];
      _mm256_store_ps(values, x);
      for (float& value : values) value = Activate(function, value);
      return _mm256_load_ps(values);
    }
  }
}

// The first `count` of eight floats; the others are 0, and their memory is not touched.
__m256i Mask(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
V LoadUnits(const float* from, int64_t count) {
  return count >= kLanes ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, Mask(count));
}
void StoreUnits(float* to, int64_t count, V x) {
  count >= kLanes ? _mm256_storeu_ps(to, x) : _mm256_maskstore_ps(to, Mask(count), x);
}

// How far the weights are read ahead: they come from the second or third level of cache, in order.
constexpr int64_t kAhead = 1024 / sizeof(float);

// Sums of several rows.
template <int kGates, int kRows>
struct Sums {
  alignas(32) float values[kRows][kGates][kLanes];
};

// sums[r][g] += sources[r] [H] times block [H, kGates, 8]. A fused multiply-add takes 4 cycles and 2 start in each:
// 8 chains keep them busy, so that few sums are split into several.
template <int kGates, int kRows>
void Multiply(const float* const (&sources)[kRows], const float* block, int64_t hidden_size,
              Sums<kGates, kRows>& sums) {
  constexpr int kSplit = kRows * kGates >= 8 ? 1 : 8 / (kRows * kGates);
  V parts[kSplit][kRows][kGates];
  UNROLLED(s, kSplit) {
    UNROLLED(r, kRows) {
      UNROLLED(g, kGates) parts[s][r][g] = s == 0 ? _mm256_load_ps(sums.values[r][g]) : _mm256_setzero_ps();
    }
  }
  int64_t k = 0;
  for (; k + kSplit <= hidden_size; k += kSplit) {
    const float* weights = block + k * kGates * kLanes;
    UNROLLED(line, (kSplit * kGates + 1) / 2) {
      _mm_prefetch(reinterpret_cast<const char*>(weights + kAhead + line * 2 * kLanes), _MM_HINT_T0);
    }
    UNROLLED(s, kSplit) {
      if constexpr (kGates < kRows) {  // of weights and inputs, the fewer stay in registers
        V w[kGates];
        UNROLLED(g, kGates) w[g] = _mm256_loadu_ps(weights + (s * kGates + g) * kLanes);
        UNROLLED(r, kRows) {
          const V input = _mm256_broadcast_ss(sources[r] + k + s);
          UNROLLED(g, kGates) parts[s][r][g] = _mm256_fmadd_ps(input, w[g], parts[s][r][g]);
        }
      } else {
        V inputs[kRows];
        UNROLLED(r, kRows) inputs[r] = _mm256_broadcast_ss(sources[r] + k + s);
        UNROLLED(g, kGates) {
          const V w = _mm256_loadu_ps(weights + (s * kGates + g) * kLanes);
          UNROLLED(r, kRows) parts[s][r][g] = _mm256_fmadd_ps(inputs[r], w, parts[s][r][g]);
        }
      }
    }
  }
  for (; k < hidden_size; ++k) {
    UNROLLED(g, kGates) {
      const V w = _mm256_loadu_ps(block + (k * kGates + g) * kLanes);
      UNROLLED(r, kRows) parts[0][r][g] = _mm256_fmadd_ps(_mm256_broadcast_ss(sources[r] + k), w, parts[0][r][g]);
    }
  }
  UNROLLED(r, kRows) {
    UNROLLED(g, kGates) {
      V sum = parts[0][r][g];
      UNROLLED(s, kSplit - 1) sum = _mm256_add_ps(sum, parts[s + 1][r][g]);
      _mm256_store_ps(sums.values[r][g], sum);
    }
  }
}

// What a cell does around the product: a type for each, with the gates that it multiplies, the gates that are
// projected, and how many rows fill the 16 registers.
struct Block {
  const Step<float>& step;
  int64_t index;
  int64_t first;
  int64_t count;  // units that are not padding

  V Gate(const Function<float>& function, V x) const {
    const V limit = Set(step.clip);
    return Apply(function, _mm256_min_ps(limit, _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), limit), x)));
  }
  const float* Projected(const Row<float>& row, int gates) const { return row.projected + index * gates * kLanes; }
  void Blend(const Row<float>& row, V update, V candidate) const {
    const V previous = LoadUnits(row.previous + first, count);
    StoreUnits(row.hidden + first, count, _mm256_fmadd_ps(update, _mm256_sub_ps(previous, candidate), candidate));
  }
};

void Copy(float* to, const float* from) { _mm256_store_ps(to, _mm256_loadu_ps(from)); }

struct Rnn {
  static constexpr int kGates = 1;
  static constexpr int kRows = 8;
  static const float* Source(const Row<float>& row) { return row.previous; }
  static void Start(const Block& block, const Row<float>& row, float (&sums)[kGates][kLanes]) {
    Copy(sums[0], block.Projected(row, 1));
  }
  static void Finish(const Block& block, const Row<float>& row, const float (&sums)[kGates][kLanes]) {
    StoreUnits(row.hidden + block.first, block.count, block.Gate(block.step.f, _mm256_load_ps(sums[0])));
  }
};

struct Lstm {
  static constexpr int kGates = 4;
  static constexpr int kRows = 3;
  static const float* Source(const Row<float>& row) { return row.previous; }
  static void Start(const Block& block, const Row<float>& row, float (&sums)[kGates][kLanes]) {
    for (int g = 0; g < kGates; ++g) Copy(sums[g], block.Projected(row, kGates) + g * kLanes);
  }
  static void Finish(const Block& block, const Row<float>& row, const float (&sums)[kGates][kLanes]) {
    const Step<float>& step = block.step;
    const int64_t padded = (step.hidden_size + kLanes - 1) / kLanes * kLanes;
    const auto peephole = [&](int64_t gate, V cell, V x) {
      return step.peepholes == nullptr
                 ? x
                 : _mm256_fmadd_ps(_mm256_loadu_ps(step.peepholes + gate * padded + block.first), cell, x);
    };
    V cell = _mm256_loadu_ps(row.cell + block.first);
    const V i = block.Gate(step.f, peephole(0, cell, _mm256_load_ps(sums[0])));
    const V f =
        step.input_forget ? _mm256_sub_ps(Set(1), i) : block.Gate(step.f, peephole(2, cell, _mm256_load_ps(sums[2])));
    cell = _mm256_fmadd_ps(f, cell, _mm256_mul_ps(i, block.Gate(step.g, _mm256_load_ps(sums[3]))));
    const V o = block.Gate(step.f, peephole(1, cell, _mm256_load_ps(sums[1])));
    _mm256_storeu_ps(row.cell + block.first, cell);
    StoreUnits(row.hidden + block.first, block.count, _mm256_mul_ps(o, Apply(step.h, cell)));
  }
};

struct GruGates {
  static constexpr int kGates = 2;
  static constexpr int kRows = 6;
  static const float* Source(const Row<float>& row) { return row.previous; }
  static void Start(const Block& block, const Row<float>& row, float (&sums)[kGates][kLanes]) {
    for (int g = 0; g < kGates; ++g) Copy(sums[g], block.Projected(row, 3) + g * kLanes);
  }
  static void Finish(const Block& block, const Row<float>& row, const float (&sums)[kGates][kLanes]) {
    const V previous = LoadUnits(row.previous + block.first, block.count);
    _mm256_storeu_ps(row.update + block.first, block.Gate(block.step.f, _mm256_load_ps(sums[0])));
    _mm256_storeu_ps(row.reset + block.first,
                     _mm256_mul_ps(block.Gate(block.step.f, _mm256_load_ps(sums[1])), previous));
  }
};

struct GruHidden {
  static constexpr int kGates = 1;
  static constexpr int kRows = 8;
  static const float* Source(const Row<float>& row) { return row.reset; }
  static void Start(const Block& block, const Row<float>& row, float (&sums)[kGates][kLanes]) {
    Copy(sums[0], block.Projected(row, 3) + 2 * kLanes);
  }
  static void Finish(const Block& block, const Row<float>& row, const float (&sums)[kGates][kLanes]) {
    block.Blend(row, _mm256_loadu_ps(row.update + block.first), block.Gate(block.step.g, _mm256_load_ps(sums[0])));
  }
};

struct GruLinearBeforeReset {
  static constexpr int kGates = 3;
  static constexpr int kRows = 4;
  static const float* Source(const Row<float>& row) { return row.previous; }
  static void Start(const Block& block, const Row<float>& row, float (&sums)[kGates][kLanes]) {
    for (int g = 0; g < 2; ++g) Copy(sums[g], block.Projected(row, kGates) + g * kLanes);
    const float* bias = block.step.reset_bias;
    _mm256_store_ps(sums[2], bias == nullptr ? _mm256_setzero_ps() : _mm256_loadu_ps(bias + block.first));
  }
  static void Finish(const Block& block, const Row<float>& row, const float (&sums)[kGates][kLanes]) {
    const V reset = block.Gate(block.step.f, _mm256_load_ps(sums[1]));
    const V candidate =
        _mm256_fmadd_ps(reset, _mm256_load_ps(sums[2]), _mm256_loadu_ps(block.Projected(row, kGates) + 2 * kLanes));
    block.Blend(row, block.Gate(block.step.f, _mm256_load_ps(sums[0])), block.Gate(block.step.g, candidate));
  }
};

template <typename Cell, int kRows>
void RunRows(const Block& block, const Row<float>* rows) {
  const float* sources[kRows];
  Sums<Cell::kGates, kRows> sums;
  for (int r = 0; r < kRows; ++r) {
    sources[r] = Cell::Source(rows[r]);
    Cell::Start(block, rows[r], sums.values[r]);
  }
  const float* weights = block.step.weights + block.index * block.step.hidden_size * Cell::kGates * kLanes;
  Multiply<Cell::kGates, kRows>(sources, weights, block.step.hidden_size, sums);
  for (int r = 0; r < kRows; ++r) Cell::Finish(block, rows[r], sums.values[r]);
}

// Runs the rows that are left over, fewer than Cell::kRows.
template <typename Cell, int kRows>
void RunRest(const Block& block, const Row<float>* rows, int64_t count) {
  if constexpr (kRows > 0) {
    if (count == kRows) return RunRows<Cell, kRows>(block, rows);
    RunRest<Cell, kRows - 1>(block, rows, count);
  }
}

template <typename Cell>
void RunBlocks(const Step<float>& step) {
  for (int64_t i = step.first_block; i < step.end_block; ++i) {
    const int64_t index = step.descending ? step.first_block + step.end_block - 1 - i : i;
    const int64_t first = index * kLanes;
    const Block block{step, index, first, step.hidden_size - first};
    int64_t row = 0;
    for (; row + Cell::kRows <= step.row_count; row += Cell::kRows) RunRows<Cell, Cell::kRows>(block, step.rows + row);
    RunRest<Cell, Cell::kRows - 1>(block, step.rows + row, step.row_count - row);
  }
}

}  // namespace

void StepAvx2(const Step<float>& step) {
  switch (step.cell) {
    case Cell::kRnn:
      return RunBlocks<Rnn>(step);
    case Cell::kLstm:
      return RunBlocks<Lstm>(step);
    case Cell::kGru:
      return step.phase == 0 ? RunBlocks<GruGates>(step) : RunBlocks<GruHidden>(step);
    case Cell::kGruLinearBeforeReset:
      return RunBlocks<GruLinearBeforeReset>(step);
  }
}

}  // namespace ingot::recurrent
#endif
