// Many rows by matrices of bfloat16 (AMX): each block of keys and values is packed as B is read; scores and outputs are
// tiles of 32 rows by 32 columns, and the running softmax between them is that of floats.
#pragma once

#include "cpu/attention/matrix_products.h"

namespace ingot::attention {

// 2^x for x <= 127 within 2^-13, for weights that are rounded to eight bits; 0 below -126; NaN of NaN.
template <typename V>
INGOT_INLINE typename V::Float RoughExp2(typename V::Float x) {
  const auto r = V::FractionOf(x);
  // For |r| <= 1/2 of least relative error (Remez' algorithm): 7.5e-5.
  auto p = V::Fma(V::Set(5.517142e-2f), r, V::Set(2.4261117e-1f));
  p = V::Fma(p, r, V::Set(6.9326106e-1f));
  p = V::Fma(p, r, V::Set(9.9992807e-1f));
  return V::ZeroBelow(x, V::Set(-126.0f), V::TimesPowerOfTwo(p, x - r));
}

// Writes e^(factor score - max) in parts, `distance` apart, where scores are 32 by 32, and returns their sum. One part
// is rounded; of three, those of 16 weights and the next 16 alternate. Meanwhile the next scores are computed.
template <typename V, int kParts, typename Next>
struct WriteWeights {
  uint16_t* to;
  int64_t stride, distance;
  Next* next;
  float factor = 1;

  INGOT_INLINE float operator()(int64_t row, const float* scores, Range columns, float max) const {
    return V::ReduceAdd(Sums(row, scores, columns, max));
  }

  // The sums of every 16th weight.
  INGOT_INLINE typename V::Float Sums(int64_t row, const float* scores, Range columns, float max) const {
    auto even = V::Set(0);
    auto odd = even;
    const auto base = V::Set(kLog2E);
    const auto shift = V::Set(max);
    const auto exponential = [&](typename V::Float score) __attribute__((always_inline)) {
      auto scaled = score * V::Set(factor);
      __asm__("" : "+v"(scaled));  // a multiply-add would not give 0 for the greatest score, where scores are large
      const auto power = (scaled - shift) * base;
      return kParts == 1 ? RoughExp2<V>(power) : simd::Exp2UpTo127<V>(power);
    };
    uint16_t* at = to + row * stride;
    for (int64_t i = columns.begin; i < columns.end; i += 2 * V::kLanes) {
      const auto a = exponential(V::Load(scores + i));
      const auto b = exponential(V::Load(scores + i + V::kLanes));
      Write(a, b, at + i);
      even = even + a;
      odd = odd + b;
      next->Beat();
    }
    return even + odd;
  }

 private:
  INGOT_INLINE void Write(__m512 a, __m512 b, uint16_t* at) const {
    if constexpr (kParts == 1) {
      _mm512_storeu_si512(at, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
    } else {
      StorePairs<kParts>(a, b, at, distance);
    }
  }
};

// Of 16 rows the sum, or the greatest, of 16 floats.
template <typename Combine>
INGOT_INLINE __m512 ReduceRows(const float (&rows)[16][16], Combine&& combine) {
  __m512 x[8], y[4], z[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m512 a = _mm512_load_ps(rows[i]), b = _mm512_load_ps(rows[i + 8]);
    x[i] = combine(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    y[i] = combine(_mm512_shuffle_f32x4(x[i], x[i + 4], 0x88), _mm512_shuffle_f32x4(x[i], x[i + 4], 0xDD));
  for (int i = 0; i < 2; ++i) z[i] = combine(_mm512_unpacklo_ps(y[i], y[i + 2]), _mm512_unpackhi_ps(y[i], y[i + 2]));
  const __m512 mixed = combine(_mm512_shuffle_ps(z[0], z[1], 0x44), _mm512_shuffle_ps(z[0], z[1], 0xEE));
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, mixed);
}

// Whether a number is a power of two: bfloat16 times it is exact.
INGOT_INLINE bool IsPowerOfTwo(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return (bits & 0x807FFFFF) == 0 && bits >= 0x20000000 && bits <= 0x5F000000;
}

// The factor of queries, and that of scores.
struct Factors {
  float queries, scores;
};

// The factor of queries and scores before they are capped.
INGOT_INLINE float ScaleOf(const Problem& problem) {
  return problem.softcap > 0 ? problem.scale / problem.softcap : problem.scale;
}

INGOT_INLINE Factors FactorsOf(const Problem& problem) {
  const float scale = ScaleOf(problem);
  if (IsPowerOfTwo(scale)) return {scale, 1};
  return {1, scale};
}

// Whether a unit's queries are read where they lie: of bfloat16, in whole registers, and for one block of keys (more
// often, rows that lie far apart would be in each other's way in caches).
INGOT_INLINE bool AreInPlace(const Problem& problem, const Unit& unit) {
  return problem.q.element == Element::kBfloat && problem.q.feature == 1 && problem.group == 1 &&
         problem.size % kDepth == 0 && (unit.end_row - unit.first_row) % kTile == 0 && problem.sink_q.data == nullptr &&
         problem.most_keys <= kBlockKeys;
}

// Whether a unit's keys are one block, whose products need not be added to anything.
INGOT_INLINE bool IsOneBlock(const Problem& problem) {
  return problem.most_keys <= kBlockKeys && problem.sink_keys == 0;
}

// out [rows, columns] *= factors [rows].
template <typename V>
INGOT_INLINE void ScaleOutputs(float* out, int64_t rows, int64_t columns, const float* factors) {
  for (int64_t r = 0; r < rows; ++r) {
    if (factors[r] == 1) continue;
    const auto factor = V::Set(factors[r]);
    for (int64_t i = 0; i < columns; i += V::kLanes) {
      float* sums = out + r * columns + i;
      V::Store(sums, V::Load(sums) * factor);
    }
  }
}

// scores [rows, columns] *= factor.
template <typename V>
INGOT_INLINE void ScaleScores(float* scores, int64_t rows, Range columns, float factor) {
  for (int64_t r = 0; factor != 1 && r < rows; ++r, scores += kBlockKeys)
    for (int64_t i = columns.begin; i < columns.end; i += V::kLanes)
      V::Store(scores + i, V::Load(scores + i) * V::Set(factor));
}

// The parts of a head's queries, those for pinned keys too. Returns whether all are finite, if they are of several
// parts.
template <typename V, int kParts>
INGOT_INLINE bool SplitAllQueries(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  // Rounded to bfloat16 by a scale that is no power of two, queries would not be what they were.
  const float scale = kParts == 1 ? FactorsOf(problem).queries : ScaleOf(problem);
  const auto split = [&](const Tensor& q, float* to) {
    return SplitQueries<V, kParts>(problem, unit, q, scale, scratch.padded_rows, to);
  };
  const bool pinned = problem.sink_q.data != nullptr && unit.first_key < problem.sink_keys;
  return split(problem.q, scratch.queries) && (!pinned || split(problem.sink_q, scratch.sink_q));
}

// The products of a unit's rows with the keys and values of one block, which are packed.
template <typename V, int kParts>
class BlockOfKeys {
 public:
  BlockOfKeys(const Problem& problem, const Unit& unit, const Scratch& scratch, const Block& block)
      : problem_(problem),
        unit_(unit),
        scratch_(scratch),
        block_(block),
        in_place_(kParts == 1 && AreInPlace(problem, unit)),
        one_block_(IsOneBlock(problem)),
        depth_(RoundUp(problem.size, kDepth)),
        out_stride_(RoundUp(problem.value_size, kPadding)),
        scores_{scratch.scores, scratch.scores + kTile * kBlockKeys} {}

  void Run() {
    Rows rows = RowsFrom(unit_.first_row);
    int64_t end = unit_.first_row;  // of the rows that have outputs
    if (rows.count > 0) ScoresOf(rows, 0).Finish();
    for (int turn = 0; rows.count > 0; turn ^= 1) {
      const Rows next = RowsFrom(rows.first + kTile);
      Next scores = next.count == 0 ? Next() : ScoresOf(next, turn ^ 1);
      const bool any = Weigh(rows, turn, scores);
      scores.Finish();
      if (any) {
        if (one_block_) ClearRows(end, rows.first);
        AddValues(rows);
        end = rows.first + rows.count;
      }
      rows = next;
    }
    if (one_block_) ClearRows(end, unit_.end_row);
  }

 private:
  using Next = Scores<kParts>;
  struct Rows {
    int64_t first, count;  // none are left
    Range columns;         // that any of them sees, in whole tiles
  };

  void ClearRows(int64_t begin, int64_t end) const {
    ClearOutputs(problem_, scratch_, begin - unit_.first_row, end - unit_.first_row);
  }

  Range Keys() const { return {block_.first, block_.first + block_.count}; }

  // The next rows from `first` on that see any of the keys.
  Rows RowsFrom(int64_t first) const {
    for (int64_t row = first; row < unit_.end_row; row += kTile) {
      const int64_t count = Least(kTile, unit_.end_row - row);
      const int64_t window = Greatest(VisibleKeys(problem_, unit_, row).begin - block_.first, 0);
      const int64_t begin = block_.first < problem_.sink_keys ? 0 : window / kTile * kTile;
      const int64_t seen = VisibleKeys(problem_, unit_, row + count - 1).end - block_.first;
      const int64_t end = RoundUp(Least(seen, block_.count), kTile);
      if (begin >= end) continue;
      if (!AreMaskedOut<V>(problem_, unit_, scratch_, row, count, Keys())) return {row, count, {begin, end}};
    }
    return {0, 0, {0, 0}};
  }

  Next ScoresOf(const Rows& rows, int turn) const {
    const int64_t padded = RoundUp(problem_.size, kPadding);
    const auto* queries = reinterpret_cast<const uint16_t*>(QueriesOf(problem_, scratch_, block_.first)) +
                          (rows.first - unit_.first_row) * kParts * padded;
    int64_t stride = kParts * padded;
    if (in_place_) {
      queries = RowOf<uint16_t>(problem_.q, unit_.batch, rows.first, unit_.kv_head);
      stride = problem_.q.sequence;
    }
    const auto* keys = reinterpret_cast<const uint16_t*>(scratch_.keys);
    return {{queries, stride, padded, kDepth},
            {keys, simd::kMatrixRows * depth_, kBlockKeys * depth_, kMatrix},
            rows.columns,
            depth_,
            scores_[turn]};
  }

  // Makes weights of scores, while those of the next rows are computed; whether any is more than 0.
  bool Weigh(const Rows& rows, int turn, Next& next) {
    Scratch scratch = scratch_;
    scratch.scores = scores_[turn];
    const float factor = kParts > 1 ? 1 : in_place_ ? ScaleOf(problem_) : FactorsOf(problem_).scores;
    WriteWeights<V, kParts, Next> write{weights_[0], kBlockKeys, kTile * kBlockKeys, &next, factor};
    const bool plain = problem_.softcap <= 0 && problem_.slopes == nullptr;
    if (rows.count == kTile && factor > 0 && plain && AddsNothing<V>(problem_, unit_, rows.first, rows.count, Keys())) {
      const Range range{rows.first, rows.first + rows.count};
      const bool all = AreSeen(problem_, unit_, range, block_, rows.columns);
      for (int64_t r = 0; !all && r < rows.count; ++r)
        HideUnseen(scratch.scores + r * kBlockKeys, rows.columns,
                   SeenOf(problem_, unit_, rows.first + r, block_, rows.columns));
      if (WeighAll(scratch, rows, write)) return true;
    }
    ScaleScores<V>(scratch.scores, rows.count, rows.columns, factor);
    write.factor = 1;
    return UpdateRows<V>(problem_, unit_, scratch, rows.first, rows.count, block_, rows.columns, write);
  }

  // As UpdateRows, for 32 rows whose products times a factor are their scores: states of 16 rows are a vector. Returns
  // false, and changes nothing, where all weights may be 0.
  bool WeighAll(const Scratch& scratch, const Rows& rows, const WriteWeights<V, kParts, Next>& write) {
    constexpr int64_t kRows = V::kLanes;
    const Range columns = rows.columns;
    float* max = scratch.max + rows.first - unit_.first_row;
    float* sum = scratch.sum + rows.first - unit_.first_row;
    alignas(64) float parts[kRows][V::kLanes];
    alignas(64) float shifts[kTile];
    __m512 maxima[2], factors[2];
    __mmask16 any = 0;
    for (int64_t half = 0; half < 2; ++half) {
      for (int64_t r = 0; r < kRows; ++r)
        V::Store(parts[r], GreatestVectorOf<V>(scratch.scores + (half * kRows + r) * kBlockKeys, columns));
      const auto greater = [](__m512 a, __m512 b) __attribute__((always_inline)) { return _mm512_max_ps(a, b); };
      const __m512 greatest = ReduceRows(parts, greater) * V::Set(write.factor);
      const __m512 old = V::Load(max + half * kRows);
      maxima[half] = _mm512_max_ps(greatest, old);
      const __mmask16 seen = _mm512_cmp_ps_mask(maxima[half], V::Set(kMinusInfinity), _CMP_NEQ_UQ);
      const __m512 shift = _mm512_maskz_mov_ps(seen, maxima[half]);
      V::Store(shifts + half * kRows, shift);
      factors[half] = simd::Exp2UpTo127<V>((old - shift) * V::Set(kLog2E));
      any |= _mm512_cmp_ps_mask(greatest - old, V::Set(-88), _CMP_NLT_UQ);
    }
    if (any == 0) return false;
    for (int64_t half = 0; half < 2; ++half) {
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t row = half * kRows + r;
        V::Store(parts[r], write.Sums(row, scratch.scores + row * kBlockKeys, columns, shifts[row]));
      }
      const auto add = [](__m512 a, __m512 b) __attribute__((always_inline)) { return a + b; };
      V::Store(sum + half * kRows, V::Load(sum + half * kRows) * factors[half] + ReduceRows(parts, add));
      V::Store(max + half * kRows, maxima[half]);
      V::Store(scratch.factors + half * kRows, factors[half]);
    }
    return true;
  }

  // Adds the products of weights and values to the rows' outputs.
  void AddValues(const Rows& rows) {
    const auto* values = reinterpret_cast<const uint16_t*>(scratch_.values);
    const int64_t begin = rows.columns.begin;
    float* out = scratch_.out + (rows.first - unit_.first_row) * out_stride_;
    if (!one_block_) ScaleOutputs<V>(out, rows.count, out_stride_, scratch_.factors);
    for (int64_t column = 0; column < out_stride_; column += kTile) {
      one_block_ ? ClearTile() : LoadTile(out + column, out_stride_);
      AddProducts<kParts>({weights_[0] + begin, kBlockKeys, kTile * kBlockKeys, kDepth},
                          {values + begin * out_stride_ + column / kTile * 2 * kMatrix, kMatrix,
                           kBlockKeys * out_stride_, kDepth * out_stride_},
                          rows.columns.end - begin);
      StoreTile(out + column, out_stride_);
    }
  }

  const Problem& problem_;
  const Unit& unit_;
  const Scratch& scratch_;
  const Block& block_;
  const bool in_place_, one_block_;
  const int64_t depth_, out_stride_;
  float* const scores_[2];
  alignas(64) uint16_t weights_[kParts][kTile * kBlockKeys];
};

// Returns false where operands that are not finite leave no sums of parts, without having finished.
template <typename V, int kParts>
bool RunMatrices(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  bool finite = true, any = false;
  Block block;
  ForBlocks(problem, unit, kBlockKeys, [&](int64_t first, int64_t count) {
    if (!finite) return;
    any = true;
    Locate<V>(problem, unit, first, count, block);
    finite = PackMatrixKeys<V, kParts>(problem, scratch, block);
    if constexpr (kParts == 1) {
      PackMatrixValues<V>(problem, scratch, block);
    } else {
      finite &= PackSplitValues<V>(problem, scratch, block);
    }
    if (finite) BlockOfKeys<V, kParts>(problem, unit, scratch, block).Run();
  });
  if (!any && IsOneBlock(problem)) ClearOutputs(problem, scratch, 0, unit.end_row - unit.first_row);
  return finite;
}

// Whether the unit was computed, but for its division by sums.
template <typename V, int kParts>
bool ComputeByMatrices(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  const bool in_place = kParts == 1 && AreInPlace(problem, unit);
  if (!in_place && !SplitAllQueries<V, kParts>(problem, unit, scratch)) return false;
  if (!IsOneBlock(problem)) ClearOutputs(problem, scratch, 0, scratch.padded_rows);
  StartSums<V>(problem, unit, scratch);
  const simd::Matrices registers;
  return RunMatrices<V, kParts>(problem, unit, scratch);
}

}  // namespace ingot::attention
