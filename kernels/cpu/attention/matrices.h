// Many rows by matrices of bfloat16 (AMX): each block of keys and values is packed as B is read; scores and outputs are
// tiles of 32 rows by 32 columns, and the running softmax between them is that of floats.
//
// An operand is one bfloat16 or the sum of three, which are a float to its last bit: the six products of parts that are
// not less than 2^-24 of the whole are as exact as a product of floats.
#pragma once

#include "cpu/attention/matrix_operands.h"

namespace ingot::attention {

// One of two operands: rows of A that lie `stride` numbers apart, or registers of B, of which the right ones lie
// `stride` behind the left ones; and how far parts, and steps of k, lie apart.
struct Operand {
  const uint16_t* at;
  int64_t stride, part, step;
};

INGOT_INLINE void LoadA(const Operand& a, int64_t part) {
  const uint16_t* at = a.at + part * a.part;
  _tile_loadd(4, at, a.stride * 2);
  _tile_loadd(5, at + simd::kMatrixRows * a.stride, a.stride * 2);
}

INGOT_INLINE void LoadB(const Operand& b, int64_t part) {
  const uint16_t* at = b.at + part * b.part;
  _tile_loadd(6, at, simd::kMatrixRowBytes);
  _tile_loadd(7, at + b.stride, simd::kMatrixRowBytes);
}

INGOT_INLINE void MultiplyRegisters() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// How many products of parts a product of operands of kParts is: of three and three those that matter.
constexpr int ProductsOf(int parts) { return parts == 1 ? 1 : 6; }

// Adds the `product`th product of parts to a tile of sums: first all of A with the first of B, small ones before large
// ones, then the first of A with the others of B, then the second ones. In this order most stay in their registers.
template <int kParts>
INGOT_INLINE void AddProduct(const Operand& a, const Operand& b, int product) {
  static_assert(kParts == 1 || kParts == 3);
  if (product == 0) LoadB(b, 0);
  if (product < kParts) LoadA(a, kParts - 1 - product);
  if (product == 3) LoadB(b, 2);
  if (product == 4) LoadB(b, 1);
  if (product == 5) LoadA(a, 1);
  MultiplyRegisters();
}

// A tile of sums plus the products of two operands of kParts.
template <int kParts>
INGOT_INLINE void AddProducts(Operand a, Operand b, int64_t depth) {
  for (int64_t k = 0; k < depth; k += kDepth, a.at += a.step, b.at += b.step) {
    for (int product = 0; product < ProductsOf(kParts); ++product) AddProduct<kParts>(a, b, product);
  }
}

INGOT_INLINE void ClearTile() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

INGOT_INLINE void StoreTile(float* to, int64_t stride) {
  _tile_stored(0, to, stride * 4);
  _tile_stored(1, to + simd::kMatrixRows, stride * 4);
  _tile_stored(2, to + simd::kMatrixRows * stride, stride * 4);
  _tile_stored(3, to + simd::kMatrixRows * stride + simd::kMatrixRows, stride * 4);
}

INGOT_INLINE void LoadTile(const float* from, int64_t stride) {
  _tile_loadd(0, from, stride * 4);
  _tile_loadd(1, from + simd::kMatrixRows, stride * 4);
  _tile_loadd(2, from + simd::kMatrixRows * stride, stride * 4);
  _tile_loadd(3, from + simd::kMatrixRows * stride + simd::kMatrixRows, stride * 4);
}

// Scores of 32 rows, computed in steps, between which vectors do something else: matrices and vectors work side by
// side. Between the first step and the last the registers of matrices are its own.
template <int kParts>
class Scores {
 public:
  // Of no rows.
  Scores() = default;
  // Products of queries with the keys of `columns`, which are `depth` numbers long, become rows of kBlockKeys
  // scores.
  Scores(const Operand& queries, const Operand& keys, Range columns, int64_t depth, float* to)
      : queries_(queries),
        keys_(keys),
        columns_(columns),
        depth_(depth),
        to_(to),
        pause_(static_cast<int>(Greatest(kTile * kTile / (depth * kProducts), 1))) {
    StartColumn();
  }

  INGOT_INLINE bool done() const { return columns_.begin >= columns_.end; }

  // Called once for each 32 weights of another 32 rows: takes a step when it is time for one.
  INGOT_INLINE void Beat() {
    if (--wait_ > 0 || done()) return;
    wait_ = pause_;
    Step();
  }
  INGOT_INLINE void Finish() {
    while (!done()) Step();
  }

 private:
  static constexpr int kProducts = ProductsOf(kParts);

  INGOT_INLINE void StartColumn() {
    a_ = queries_;
    b_ = keys_;
    b_.at += columns_.begin * depth_;
    left_ = depth_;
  }

  INGOT_INLINE void Step() {
    if (product_ == 0 && left_ == depth_) ClearTile();
    AddProduct<kParts>(a_, b_, product_);
    if (++product_ < kProducts) return;
    product_ = 0;
    a_.at += a_.step;
    b_.at += b_.step;
    left_ -= kDepth;
    if (left_ > 0) return;
    StoreTile(to_ + columns_.begin, kBlockKeys);
    columns_.begin += kTile;
    StartColumn();
  }

  Operand queries_{}, keys_{};
  Operand a_{}, b_{};
  Range columns_{0, 0};
  int64_t depth_ = 0, left_ = 0;
  float* to_ = nullptr;
  int product_ = 0;
  int pause_ = 1, wait_ = 1;
};

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

// Writes e^(score - max) in parts, `distance` apart, where scores are 32 by 32, and returns their sum. One part is
// rounded; of three, those of 16 weights and the next 16 alternate. Meanwhile the next rows' scores are computed.
template <typename V, int kParts, typename Next>
struct WriteWeights {
  uint16_t* to;
  int64_t stride, distance;
  Next* next;

  INGOT_INLINE float operator()(int64_t row, const float* scores, Range columns, float max) const {
    auto even = V::Set(0);
    auto odd = even;
    const auto base = V::Set(kLog2E);
    const auto shift = V::Set(max);
    const auto exponential = [&](typename V::Float score) __attribute__((always_inline)) {
      const auto power = (score - shift) * base;
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
    return V::ReduceAdd(even + odd);
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

INGOT_INLINE Factors FactorsOf(const Problem& problem) {
  const float scale = problem.softcap > 0 ? problem.scale / problem.softcap : problem.scale;
  if (IsPowerOfTwo(scale)) return {scale, 1};
  return {1, scale};
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

// The products of a unit's rows with the keys and values of one block, which are packed.
template <typename V, int kParts>
class BlockOfKeys {
 public:
  BlockOfKeys(const Problem& problem, const Unit& unit, const Scratch& scratch, const Block& block)
      : problem_(problem),
        unit_(unit),
        scratch_(scratch),
        block_(block),
        depth_(RoundUp(problem.size, kDepth)),
        out_stride_(RoundUp(problem.value_size, kPadding)),
        scores_{scratch.scores, scratch.scores + kTile * kBlockKeys} {}

  void Run() {
    Rows rows = RowsFrom(unit_.first_row);
    if (rows.count == 0) return;
    ScoresOf(rows, 0).Finish();
    for (int turn = 0; rows.count > 0; turn ^= 1) {
      const Rows next = RowsFrom(rows.first + kTile);
      Next scores = next.count == 0 ? Next() : ScoresOf(next, turn ^ 1);
      const bool any = Weigh(rows, turn, scores);
      scores.Finish();
      if (any) AddValues(rows);
      rows = next;
    }
  }

 private:
  using Next = Scores<kParts>;
  struct Rows {
    int64_t first, count;  // none are left
    Range columns;         // that any of them sees, in whole tiles
  };

  // The next rows from `first` on that see any of the keys.
  Rows RowsFrom(int64_t first) const {
    for (int64_t row = first; row < unit_.end_row; row += kTile) {
      const int64_t count = Least(kTile, unit_.end_row - row);
      const int64_t window = Greatest(VisibleKeys(problem_, unit_, row).begin - block_.first, 0);
      const int64_t begin = block_.first < problem_.sink_keys ? 0 : window / kTile * kTile;
      const int64_t seen = VisibleKeys(problem_, unit_, row + count - 1).end - block_.first;
      const int64_t end = RoundUp(Least(seen, block_.count), kTile);
      if (begin < end) return {row, count, {begin, end}};
    }
    return {0, 0, {0, 0}};
  }

  Next ScoresOf(const Rows& rows, int turn) const {
    const int64_t stride = RoundUp(problem_.size, kPadding);
    const auto* queries = reinterpret_cast<const uint16_t*>(QueriesOf(problem_, scratch_, block_.first)) +
                          (rows.first - unit_.first_row) * kParts * stride;
    const auto* keys = reinterpret_cast<const uint16_t*>(scratch_.keys);
    return {{queries, kParts * stride, stride, kDepth},
            {keys, simd::kMatrixRows * depth_, kBlockKeys * depth_, kMatrix},
            rows.columns,
            depth_,
            scores_[turn]};
  }

  // Makes weights of scores, while those of the next rows are computed; whether any is more than 0.
  bool Weigh(const Rows& rows, int turn, Next& next) {
    Scratch scratch = scratch_;
    scratch.scores = scores_[turn];
    const float factor = kParts == 1 ? FactorsOf(problem_).scores : 1;
    for (int64_t r = 0; factor != 1 && r < rows.count; ++r)
      for (int64_t i = rows.columns.begin; i < rows.columns.end; i += V::kLanes) {
        float* at = scratch.scores + r * kBlockKeys + i;
        V::Store(at, V::Load(at) * V::Set(factor));
      }
    const WriteWeights<V, kParts, Next> write{weights_[0], kBlockKeys, kTile * kBlockKeys, &next};
    return UpdateRows<V>(problem_, unit_, scratch, rows.first, rows.count, block_, rows.columns, write);
  }

  // Adds the products of weights and values to the rows' outputs.
  void AddValues(const Rows& rows) {
    const auto* values = reinterpret_cast<const uint16_t*>(scratch_.values);
    const int64_t begin = rows.columns.begin;
    float* out = scratch_.out + (rows.first - unit_.first_row) * out_stride_;
    ScaleOutputs<V>(out, rows.count, out_stride_, scratch_.factors);
    for (int64_t column = 0; column < out_stride_; column += kTile) {
      LoadTile(out + column, out_stride_);
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
  const int64_t depth_, out_stride_;
  float* const scores_[2];
  alignas(64) uint16_t weights_[kParts][kTile * kBlockKeys];
};

// Returns false where operands that are not finite leave no sums of parts, without having finished.
template <typename V, int kParts>
bool RunMatrices(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  bool finite = true;
  Block block;
  ForBlocks(problem, unit, kBlockKeys, [&](int64_t first, int64_t count) {
    if (!finite) return;
    Locate<V>(problem, unit, first, count, block);
    finite = PackMatrixKeys<V, kParts>(problem, scratch, block);
    if constexpr (kParts == 1) {
      PackMatrixValues<V>(problem, scratch, block);
    } else {
      finite &= PackSplitValues<V>(problem, scratch, block);
    }
    if (finite) BlockOfKeys<V, kParts>(problem, unit, scratch, block).Run();
  });
  return finite;
}

// Whether the unit was computed, but for its division by sums.
template <typename V, int kParts>
bool ComputeByMatrices(const Problem& problem, const Unit& unit, const Scratch& scratch) {
  Problem scaled = problem;
  // Rounded to bfloat16 by a scale that is no power of two, queries would not be what they were.
  if (kParts == 1) scaled.scale = FactorsOf(problem).queries * (problem.softcap > 0 ? problem.softcap : 1);
  StartUnit<V>(scaled, unit, scratch);
  bool finite = SplitQueries<V, kParts>(problem, scratch.queries, scratch.padded_rows);
  if (scratch.sink_q != scratch.queries && unit.first_key < problem.sink_keys)
    finite &= SplitQueries<V, kParts>(problem, scratch.sink_q, scratch.padded_rows);
  if (!finite) return false;
  const simd::Matrices registers;
  return RunMatrices<V, kParts>(problem, unit, scratch);
}

}  // namespace ingot::attention
