// One time step in vectors: blocks of eight units, several rows at once. At one row the weights stream from the cache,
// and loads bound the time; at more rows each load serves all of them.
//
// Written once over vocabularies of vectors (kernels/simd/) and instantiated by a file for each instruction set, with a
// `Machine` that is local to the file, so that nothing compiled for one instruction set is found by the linker in
// another's place. A Machine has
//
//   Wide    the vocabulary of the products; its vectors may span the eight units of several gates
//   Units   the vocabulary of what follows them, of at most eight lanes
#pragma once

#include "cpu/recurrent/step.h"
#include "simd/math.h"

namespace ingot::recurrent {

// A loop of constant length without a loop: arrays of vectors stay in registers only if every index is known.
#define INGOT_UNROLLED(index, count) _Pragma("GCC unroll 32") for (int index = 0; index < (count); ++index)

template <typename V>
INGOT_INLINE typename V::Float Apply(const Function<float>& function, typename V::Float x) {
  const auto one = V::Set(1.0f);
  switch (function.kind) {
    case Activation::kSigmoid:
      return one / (one + simd::Exp<V>(V::Set(0.0f) - x));
    case Activation::kTanh:
      return simd::Tanh<V>(x);
    default: {
      float values[V::kLanes];
      V::Store(values, x);
      for (float& value : values) value = Activate(function, value);
      return V::Load(values);
    }
  }
}

// How far the weights are read ahead: they come from the second or third level of cache, in order.
constexpr int64_t kAhead = 4096;  // bytes
constexpr int64_t kCacheLine = 64;

// Sums of several rows.
template <int kGates, int kRows>
struct Sums {
  alignas(64) float values[kRows][kGates][kLanes];
};

// A vector of one of the k that lie side by side.
template <typename V, typename W>
INGOT_INLINE typename V::Float LoadSide(const W* from, int side) {
  if constexpr (Layout<W>::kSides == 1) {
    return V::Load(from);
  } else {
    typename V::Float even, odd;
    V::LoadPairs(from, even, odd);
    return side == 0 ? even : odd;
  }
}

// sums[r] [kGates * 8] += sources[r] [H] times block [H, kGates * 8]. A fused multiply-add takes 4 cycles and 2 start
// in each: 8 chains keep them busy, so that few sums are split into several.
template <typename V, int kGates, int kRows, typename W>
INGOT_INLINE void Multiply(const float* const (&sources)[kRows], const W* block, int64_t hidden_size,
                           Sums<kGates, kRows>& sums) {
  constexpr int kWidth = kGates * static_cast<int>(kLanes);
  constexpr int kVectors = kWidth / V::kLanes;
  constexpr int kSplit = kRows * kVectors >= 8 ? 1 : 8 / (kRows * kVectors);
  constexpr int kSides = Layout<W>::kSides;
  constexpr int kStep = kSplit > kSides ? kSplit : kSides;  // k at once
  typename V::Float parts[kSplit][kRows][kVectors];
  INGOT_UNROLLED(s, kSplit) {
    INGOT_UNROLLED(r, kRows) {
      INGOT_UNROLLED(v, kVectors) {
        parts[s][r][v] = s == 0 ? V::Load(&sums.values[r][0][0] + v * V::kLanes) : V::Set(0.0f);
      }
    }
  }
  int64_t k = 0;
  for (; k + kStep <= hidden_size; k += kStep) {
    const W* weights = block + k * kWidth;
    constexpr int kLines = (kStep * kWidth * static_cast<int>(sizeof(W)) + kCacheLine - 1) / kCacheLine;
    INGOT_UNROLLED(line, kLines) {
      __builtin_prefetch(reinterpret_cast<const char*>(weights) + kAhead + line * kCacheLine);
    }
    INGOT_UNROLLED(s, kStep) {
      const W* row = weights + s / kSides * kSides * kWidth;
      auto& part = parts[s % kSplit];
      if constexpr (kVectors < kRows) {  // of weights and inputs, the fewer stay in registers
        typename V::Float w[kVectors];
        INGOT_UNROLLED(v, kVectors) w[v] = LoadSide<V>(row + v * kSides * V::kLanes, s % kSides);
        INGOT_UNROLLED(r, kRows) {
          const auto input = V::Set(sources[r][k + s]);
          INGOT_UNROLLED(v, kVectors) part[r][v] = V::Fma(input, w[v], part[r][v]);
        }
      } else {
        typename V::Float inputs[kRows];
        INGOT_UNROLLED(r, kRows) inputs[r] = V::Set(sources[r][k + s]);
        INGOT_UNROLLED(v, kVectors) {
          const auto w = LoadSide<V>(row + v * kSides * V::kLanes, s % kSides);
          INGOT_UNROLLED(r, kRows) part[r][v] = V::Fma(inputs[r], w, part[r][v]);
        }
      }
    }
  }
  for (; k < hidden_size; ++k) {
    INGOT_UNROLLED(v, kVectors) {
      const W* row = block + k / kSides * kSides * kWidth;
      const auto w = LoadSide<V>(row + v * kSides * V::kLanes, static_cast<int>(k % kSides));
      INGOT_UNROLLED(r, kRows) parts[0][r][v] = V::Fma(V::Set(sources[r][k]), w, parts[0][r][v]);
    }
  }
  INGOT_UNROLLED(r, kRows) {
    INGOT_UNROLLED(v, kVectors) {
      auto sum = parts[0][r][v];
      INGOT_UNROLLED(s, kSplit - 1) sum = sum + parts[s + 1][r][v];
      V::Store(&sums.values[r][0][0] + v * V::kLanes, sum);
    }
  }
}

// std::conditional, without the standard library's other inline functions.
template <bool kFirst, typename A, typename B>
struct Pick {
  using Type = A;
};
template <typename A, typename B>
struct Pick<false, A, B> {
  using Type = B;
};

// A vector of the units of a block.
template <typename V>
struct Units {
  using Float = typename V::Float;

  const Settings<float>& step;
  int64_t lane;   // of the block's eight
  int64_t first;  // of the layer's
  int64_t count;  // of `first` and those after it, what is not padding

  INGOT_INLINE Float Sum(const float (&gate)[kLanes]) const { return V::Load(gate + lane); }
  INGOT_INLINE Float Gate(const Function<float>& function, Float x) const {
    return Apply<V>(function, V::Min(V::Set(step.clip), V::Max(V::Set(-step.clip), x)));
  }
  INGOT_INLINE Float Load(const float* units) const {
    return count >= V::kLanes ? V::Load(units + first) : V::LoadFirst(units + first, count);
  }
  INGOT_INLINE void Store(float* units, Float x) const {
    count >= V::kLanes ? V::Store(units + first, x) : V::StoreFirst(units + first, count, x);
  }
  INGOT_INLINE void Blend(const Row<float>& row, Float update, Float candidate) const {
    Store(row.hidden, V::Fma(update, Load(row.previous) - candidate, candidate));
  }
};

// What a cell does around the product: a type for each, with the gates that it multiplies, the gates that are
// projected, how many of these start the sums and from which on, and how many rows fill 16 registers of eight lanes.
template <typename V>
struct Rnn {
  static constexpr int kGates = 1, kProjected = 1, kStarts = 1, kFirst = 0, kRows = 8;
  INGOT_INLINE static const float* Source(const Row<float>& row) { return row.previous; }
  INGOT_INLINE static void Finish(const Units<V>& units, const Row<float>& row, const float*,
                                  const float (&sums)[kGates][kLanes]) {
    units.Store(row.hidden, units.Gate(units.step.f, units.Sum(sums[0])));
  }
};

template <typename V>
struct Lstm {
  static constexpr int kGates = 4, kProjected = 4, kStarts = 4, kFirst = 0, kRows = 3;
  INGOT_INLINE static const float* Source(const Row<float>& row) { return row.previous; }
  INGOT_INLINE static void Finish(const Units<V>& units, const Row<float>& row, const float*,
                                  const float (&sums)[kGates][kLanes]) {
    const Settings<float>& step = units.step;
    const int64_t padded = (step.hidden_size + kLanes - 1) / kLanes * kLanes;
    auto cell = V::Load(row.cell + units.first);
    const auto gate = [&](int number) __attribute__((always_inline)) {
      const auto x = units.Sum(sums[number]);
      if (step.peepholes == nullptr || number == 3) return x;
      return V::Fma(V::Load(step.peepholes + number * padded + units.first), cell, x);
    };
    const auto i = units.Gate(step.f, gate(0));
    const auto f = step.input_forget ? V::Set(1.0f) - i : units.Gate(step.f, gate(2));
    cell = V::Fma(f, cell, i * units.Gate(step.g, gate(3)));
    const auto o = units.Gate(step.f, gate(1));
    V::Store(row.cell + units.first, cell);
    units.Store(row.hidden, o * Apply<V>(step.h, cell));
  }
};

template <typename V>
struct GruGates {
  static constexpr int kGates = 2, kProjected = 3, kStarts = 2, kFirst = 0, kRows = 6;
  INGOT_INLINE static const float* Source(const Row<float>& row) { return row.previous; }
  INGOT_INLINE static void Finish(const Units<V>& units, const Row<float>& row, const float*,
                                  const float (&sums)[kGates][kLanes]) {
    V::Store(row.update + units.first, units.Gate(units.step.f, units.Sum(sums[0])));
    V::Store(row.reset + units.first, units.Gate(units.step.f, units.Sum(sums[1])) * units.Load(row.previous));
  }
};

template <typename V>
struct GruHidden {
  static constexpr int kGates = 1, kProjected = 3, kStarts = 1, kFirst = 2, kRows = 8;
  INGOT_INLINE static const float* Source(const Row<float>& row) { return row.reset; }
  INGOT_INLINE static void Finish(const Units<V>& units, const Row<float>& row, const float*,
                                  const float (&sums)[kGates][kLanes]) {
    units.Blend(row, V::Load(row.update + units.first), units.Gate(units.step.g, units.Sum(sums[0])));
  }
};

template <typename V>
struct GruLinearBeforeReset {
  static constexpr int kGates = 3, kProjected = 3, kStarts = 2, kFirst = 0, kRows = 4;
  INGOT_INLINE static const float* Source(const Row<float>& row) { return row.previous; }
  // What the reset gate multiplies started with a bias of its own; the projection of h comes after it.
  INGOT_INLINE static void Finish(const Units<V>& units, const Row<float>& row, const float* projected,
                                  const float (&sums)[kGates][kLanes]) {
    const auto reset = units.Gate(units.step.f, units.Sum(sums[1]));
    const auto candidate = V::Fma(reset, units.Sum(sums[2]), V::Load(projected + 2 * kLanes + units.lane));
    units.Blend(row, units.Gate(units.step.f, units.Sum(sums[0])), units.Gate(units.step.g, candidate));
  }
};

// What follows the product, for one row; a function of its own, since it is long and the same for every number of rows.
template <typename M, template <typename> typename CellOf, int kGates>
[[gnu::noinline]] void FinishRow(const Settings<float>& step, int64_t index, const Row<float>& row,
                                 const float (&sums)[kGates][kLanes]) {
  using V = typename M::Units;
  const float* projected = row.projected + index * CellOf<V>::kProjected * kLanes;
  for (int64_t lane = 0; lane < kLanes; lane += V::kLanes) {
    const int64_t first = index * kLanes + lane;
    if (first >= step.hidden_size) break;
    CellOf<V>::Finish(Units<V>{step, lane, first, step.hidden_size - first}, row, projected, sums);
  }
}

// What the sums of a row start with.
template <typename M, template <typename> typename CellOf, int kGates>
INGOT_INLINE void StartRow(const Settings<float>& step, int64_t index, const Row<float>& row,
                           float (&sums)[kGates][kLanes]) {
  using V = typename M::Units;
  using Cell = CellOf<V>;
  const float* projected = row.projected + (index * Cell::kProjected + Cell::kFirst) * kLanes;
  for (int g = 0; g < kGates; ++g) {
    const float* bias = step.reset_bias == nullptr ? nullptr : step.reset_bias + index * kLanes;
    const float* from = g < Cell::kStarts ? projected + g * kLanes : bias;
    for (int lane = 0; lane < kLanes; lane += V::kLanes)
      V::Store(sums[g] + lane, from == nullptr ? V::Set(0.0f) : V::Load(from + lane));
  }
}

// The weights of a block of units.
template <int kGates, typename W>
INGOT_INLINE const W* BlockWeights(const Step<float, W>& step, int64_t index) {
  return step.weights + index * step.depth * kGates * kLanes;
}

template <typename M, template <typename> typename CellOf, int kRows, typename W>
INGOT_INLINE void RunRows(const Step<float, W>& step, int64_t index, const Row<float>* rows) {
  using V = typename M::Units;
  using Cell = CellOf<V>;
  constexpr int kWidth = Cell::kGates * static_cast<int>(kLanes);
  using Product = typename Pick<kWidth % M::Wide::kLanes == 0, typename M::Wide, V>::Type;
  const float* sources[kRows];
  Sums<Cell::kGates, kRows> sums;
  for (int r = 0; r < kRows; ++r) {
    sources[r] = Cell::Source(rows[r]);
    StartRow<M, CellOf>(step, index, rows[r], sums.values[r]);
  }
  Multiply<Product, Cell::kGates, kRows>(sources, BlockWeights<Cell::kGates>(step, index), step.hidden_size, sums);
  for (int r = 0; r < kRows; ++r) FinishRow<M, CellOf>(step, index, rows[r], sums.values[r]);
}

// The i-th block that a step computes.
INGOT_INLINE int64_t BlockAt(const Settings<float>& step, int64_t i) {
  return step.descending ? step.first_block + step.end_block - 1 - i : i;
}

// Runs the rows that are left over, fewer than fill the registers.
template <typename M, template <typename> typename CellOf, int kRows, typename W>
void RunRest(const Step<float, W>& step, int64_t index, const Row<float>* rows, int64_t count) {
  if constexpr (kRows > 0) {
    if (count == kRows) return RunRows<M, CellOf, kRows>(step, index, rows);
    RunRest<M, CellOf, kRows - 1>(step, index, rows, count);
  }
}

// A step's product in vectors.
template <typename M>
struct Vectors {
  template <template <typename> typename CellOf, typename W>
  static void RunBlocks(const Step<float, W>& step) {
    constexpr int kRows = CellOf<typename M::Units>::kRows;
    for (int64_t i = step.first_block; i < step.end_block; ++i) {
      const int64_t index = BlockAt(step, i);
      int64_t row = 0;
      for (; row + kRows <= step.row_count; row += kRows) RunRows<M, CellOf, kRows>(step, index, step.rows + row);
      RunRest<M, CellOf, kRows - 1>(step, index, step.rows + row, step.row_count - row);
    }
  }
};

// A step in the way of a `Run`, such as Vectors.
template <typename Run, typename W>
void RunStep(const Step<float, W>& step) {
  switch (step.cell) {
    case Cell::kRnn:
      return Run::template RunBlocks<Rnn>(step);
    case Cell::kLstm:
      return Run::template RunBlocks<Lstm>(step);
    case Cell::kGru:
      return step.phase == 0 ? Run::template RunBlocks<GruGates>(step) : Run::template RunBlocks<GruHidden>(step);
    case Cell::kGruLinearBeforeReset:
      return Run::template RunBlocks<GruLinearBeforeReset>(step);
  }
}

template <typename M>
StepFunctions StepsOf() {
  using Run = Vectors<M>;
  return {RunStep<Run, float>, RunStep<Run, Half>, RunStep<Run, Bfloat16>};
}

}  // namespace ingot::recurrent
