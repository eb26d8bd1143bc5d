// Few rows by matrices of bfloat16: keys are read as they lie, as rows of A; values become B by two instructions for a
// pair of rows. That takes a fraction of the time that memory takes. Heads, whose rows lie side by side, are the inner
// loop.
#pragma once

#include "cpu/attention/direct.h"
#include "cpu/attention/matrices.h"

namespace ingot::attention {

static_assert(kMostDirectRows == simd::Avx512::kTile);  // which transposes scores

// All is of bfloat16, and rows of keys and values are whole registers.
template <typename V>
class FewRowsByMatrices {
 public:
  // Whether it can compute a problem's few rows.
  static bool Takes(const Problem& problem) {
    return problem.size > 0 && problem.size % kDepth == 0 && problem.value_size % kTile == 0;
  }

  FewRowsByMatrices(const Problem& problem, const Unit& unit, const Scratch& scratch)
      : problem_(problem),
        unit_(unit),
        scratch_(scratch),
        rows_(unit.end_row - unit.first_row),
        out_stride_(RoundUp(problem.value_size, kPadding)),
        scale_(FactorsOf(problem).scores),
        registers_(RegistersOf(rows_)) {}

  void Run() {
    ForHeads(problem_, unit_, scratch_, [&](const Unit& part, const Scratch& own) {
      SplitAllQueries<V, 1>(problem_, part, own);
      PairQueries(own.queries);
      if (own.sink_q != own.queries) PairQueries(own.sink_q);
      ClearOutputs(problem_, own, 0, rows_);
      StartSums<V>(problem_, part, own);
    });
    const int64_t most = Greatest(KeysAtOnce(unit_, problem_.value_size * 2) / kDepth * kDepth, kDepth);
    const bool any =
        ForBlocksAhead<V>(problem_, unit_, most, [&](const Block& block, const Block& next) { RunBlock(block, next); });
    if (!any) return;
    ForHeads(problem_, unit_, scratch_, [&](const Unit&, const Scratch& own) { OrderOutputs(own.out); });
  }

 private:
  static constexpr int64_t kKeys = simd::kMatrixRows;  // of a register

  // Rows of keys or values of all heads.
  struct Side {
    const Bfloat16* data;
    const int64_t* places;  // of the first head's
    int64_t head, size, count;

    INGOT_INLINE const Bfloat16* At(int64_t part, int64_t row) const { return data + places[row] + part * head; }
    template <int kLocality>
    INGOT_INLINE void Fetch(int64_t part, int64_t row) const {
      if (row < count) attention::Fetch<kLocality>(At(part, row), size);
    }
  };
  INGOT_INLINE static Side KeysOf(const Problem& problem, const Block& block) {
    return {static_cast<const Bfloat16*>(problem.k.data), block.k, problem.k.head, problem.size, block.count};
  }
  INGOT_INLINE static Side ValuesOf(const Problem& problem, const Block& block) {
    return {static_cast<const Bfloat16*>(problem.v.data), block.v, problem.v.head, problem.value_size, block.count};
  }

  // In products of 16 keys with queries, and of weights with 32 values:
  // 0 scores [16, rows]  1 keys [16, 32]  2 queries [32, rows]  3 weights [rows, 32]  4, 5 values [32, 16]  6, 7
  // outputs
  static simd::Matrices RegistersOf(int64_t rows) {
    using Register = simd::Matrices::Register;
    const Register narrow{kKeys, rows * 4}, whole{kKeys, simd::kMatrixRowBytes};
    const Register few{rows, simd::kMatrixRowBytes};
    return simd::Matrices({narrow, whole, narrow, few, whole, whole, few, few});
  }

  // Queries become B, in place: [size / 2, rows, 2].
  void PairQueries(float* queries) const {
    const int64_t stride = RoundUp(problem_.size, kPadding) / 2;
    uint32_t pairs[kMostDirectRows * kMostSize / 2];
    std::memcpy(pairs, queries, static_cast<size_t>(rows_ * stride) * sizeof(*pairs));
    auto* to = reinterpret_cast<uint32_t*>(queries);
    for (int64_t pair = 0; pair < problem_.size / 2; ++pair)
      for (int64_t r = 0; r < rows_; ++r) to[pair * rows_ + r] = pairs[r * stride + pair];
  }

  void RunBlock(const Block& block, const Block& next) {
    const Side keys = KeysOf(problem_, block), values = ValuesOf(problem_, block), later = KeysOf(problem_, next);
    const int64_t heads = unit_.heads;
    for (int64_t key = 0; key < block.count; key += kKeys)
      for (int64_t head = 0; head < heads; ++head) ScoreKeys(block, keys, values, key, head);
    bool seen[kMostUnitHeads];
    ForHeads(problem_, unit_, scratch_, [&](const Unit& part, const Scratch& own) __attribute__((always_inline)) {
      seen[part.kv_head - unit_.kv_head] = Weigh(part, own, block);
    });
    for (int64_t key = 0; key < block.count; key += kDepth)
      for (int64_t head = 0; head < heads; ++head) AddValues(values, later, key, head, seen[head]);
  }

  INGOT_INLINE bool Weigh(const Unit& part, const Scratch& own, const Block& block) const {
    const Range columns{0, RoundUp(block.count, 2 * V::kLanes)};
    ScaleScores<V>(own.scores, rows_, columns, scale_);
    Scores<1> none;
    const WriteWeights<V, 1, Scores<1>> write{reinterpret_cast<uint16_t*>(own.scores), 2 * kBlockKeys, 0, &none};
    const bool any = UpdateRows<V>(problem_, part, own, part.first_row, rows_, block, columns, write);
    if (any) ScaleOutputs<V>(own.out, rows_, out_stride_, own.factors);
    return any;
  }

  // scores [rows, 16] of 16 keys of a head.
  INGOT_INLINE void ScoreKeys(const Block& block, const Side& keys, const Side& values, int64_t key,
                              int64_t head) const {
    const Scratch own = HeadScratch(problem_, scratch_, head);
    const int64_t count = Least(block.count - key, kKeys);
    const int64_t size = problem_.size;
    const auto* from = reinterpret_cast<const uint16_t*>(keys.At(head, key));
    int64_t stride = problem_.k.sequence;
    alignas(64) uint16_t staged[kKeys * kMostSize];
    if (count < kKeys || !Even<kKeys>(block.k + key, stride)) {
      stride = size;
      for (int64_t i = 0; i < kKeys; ++i) {
        const size_t bytes = static_cast<size_t>(size) * 2;
        i < count ? std::memcpy(staged + i * size, keys.At(head, key + i), bytes)
                  : std::memset(staged + i * size, 0, bytes);
      }
      from = staged;
    }
    const auto* queries = reinterpret_cast<const uint16_t*>(QueriesOf(problem_, own, block.first));
    const int64_t steps = size / kDepth;
    _tile_zero(0);
    for (int64_t step = 0; step < steps; ++step) {
      for (int64_t i = step * kKeys / steps; i < (step + 1) * kKeys / steps; ++i)
        values.template Fetch<2>(head, key + i);
      _tile_loadd(1, from + step * kDepth, stride * 2);
      _tile_loadd(2, queries + step * kDepth * rows_, rows_ * 4);
      _tile_dpbf16ps(0, 1, 2);
    }
    alignas(64) float products[kKeys][kMostDirectRows] = {};
    alignas(64) float scores[kMostDirectRows][kKeys];
    _tile_stored(0, products, kMostDirectRows * 4);
    for (int64_t i = 0; i < kKeys; i += V::kTile) V::TransposeTile(products[i], kMostDirectRows, scores[0] + i, kKeys);
    for (int64_t r = 0; r < rows_; ++r) V::Store(own.scores + r * kBlockKeys + key, V::Load(scores[r]));
  }

  // Adds the products of a head's weights with 32 values to its outputs.
  INGOT_INLINE void AddValues(const Side& values, const Side& later, int64_t key, int64_t head, bool seen) const {
    const Scratch own = HeadScratch(problem_, scratch_, head);
    alignas(64) uint16_t pairs[kMostSize / kTile][2][kKeys][kDepth];
    for (int64_t pair = 0; pair < kKeys; ++pair) {
      const int64_t row = key + 2 * pair;
      for (int64_t i = 0; i < 2; ++i) later.template Fetch<2>(head, row + i);
      for (int64_t column = 0; column < out_stride_; column += kTile)
        PairValues(values, head, row, column, pairs[column / kTile][0][pair], pairs[column / kTile][1][pair]);
    }
    if (!seen) return;
    _tile_loadd(3, reinterpret_cast<const uint16_t*>(own.scores) + key, kBlockKeys * 4);
    for (int64_t column = 0; column < out_stride_; column += kTile) {
      float* out = own.out + column;
      _tile_loadd(6, out, out_stride_ * 4);
      _tile_loadd(7, out + kKeys, out_stride_ * 4);
      _tile_loadd(4, pairs[column / kTile][0], simd::kMatrixRowBytes);
      _tile_loadd(5, pairs[column / kTile][1], simd::kMatrixRowBytes);
      _tile_dpbf16ps(6, 3, 4);
      _tile_dpbf16ps(7, 3, 5);
      _tile_stored(6, out, out_stride_ * 4);
      _tile_stored(7, out + kKeys, out_stride_ * 4);
    }
  }

  // Of 32 columns of two values, pairs side by side: the first and the second four of each eight. There are zeros where
  // there is no value.
  INGOT_INLINE static void PairValues(const Side& values, int64_t head, int64_t row, int64_t column, uint16_t* first,
                                      uint16_t* second) {
    const auto load = [&](int64_t at) __attribute__((always_inline)) {
      return at < values.count ? _mm512_loadu_si512(values.At(head, at) + column) : _mm512_setzero_si512();
    };
    const __m512i a = load(row), b = load(row + 1);
    _mm512_store_si512(first, _mm512_unpacklo_epi16(a, b));
    _mm512_store_si512(second, _mm512_unpackhi_epi16(a, b));
  }

  // Outputs have the order that PairValues gave them.
  void OrderOutputs(float* out) const {
    constexpr int64_t kQuarter = 4;
    for (float* at = out; at < out + rows_ * out_stride_; at += kTile) {
      float columns[kTile];
      std::memcpy(columns, at, sizeof(columns));
      for (int64_t i = 0; i < kTile; i += 2 * kQuarter) {
        std::memcpy(at + i, columns + i / 2, kQuarter * sizeof(float));
        std::memcpy(at + i + kQuarter, columns + kTile / 2 + i / 2, kQuarter * sizeof(float));
      }
    }
  }

  const Problem& problem_;
  const Unit& unit_;
  const Scratch& scratch_;
  const int64_t rows_, out_stride_;
  const float scale_;
  const simd::Matrices registers_;
};

}  // namespace ingot::attention
