// A unit from start to end, for one instruction set: NibbleEngine and ByteEngine multiply in integers, their lanes in
// floats; rows of X are rounded by vectors of `Narrow`, of up to 8 lanes.
#pragma once

#include "cpu/quantized_matmul/dense.h"
#include "cpu/quantized_matmul/epilogue.h"
#include "cpu/quantized_matmul/single_row.h"

namespace ingot::quantized_matmul {

template <typename NibbleEngine, typename ByteEngine, typename Narrow>
struct Implementation {
  using L = typename ByteEngine::Lanes;
  using V = typename L::V;

  static void Quantize(const Problem& problem, const Scratch& scratch, int64_t first, int64_t end) {
    WithEngine(problem.codes, [&]<typename E, Codes kCodes>() __attribute__((always_inline)) {
      for (int64_t row = first; row < end; row += E::kTileRows) {
        const int64_t rows = Least(end - row, E::kTileRows);
        WithTileRows<E>(rows, [&]<int kRows>() __attribute__((always_inline)) {
          QuantizeTile<Narrow, E>(problem, scratch, row, rows, kRows);
        });
      }
    });
  }

  static void Multiply(const Problem& problem, const Scratch& scratch, const Unit& unit) {
    const int64_t rows = unit.end_row - unit.first_row;
    const int64_t panels = unit.end_panel - unit.first_panel;
    __builtin_memset(scratch.sums, 0, static_cast<size_t>(panels * rows * kPanel) * sizeof(float));
    if (problem.integer) {
      MultiplyIntegers(problem, scratch, unit);
    } else {
      MultiplyAsFloats(problem, scratch, unit);
    }
    Finish<V>(problem, unit, scratch.sums);
  }

 private:
  template <typename Body>
  INGOT_INLINE static void WithEngine(Codes codes, Body&& body) {
    switch (codes) {
      case Codes::kBytes:
        return body.template operator()<ByteEngine, Codes::kBytes>();
      case Codes::kNibbles:
        return body.template operator()<NibbleEngine, Codes::kNibbles>();
      case Codes::kTable:
        return body.template operator()<ByteEngine, Codes::kTable>();
    }
  }

  // Chunks of k outside and panels, kPanels at a time, inside, so that the rows of a chunk stay in the second-level
  // cache; with a single tile panels outside, so that the weights are read from start to end.
  static void MultiplyIntegers(const Problem& problem, const Scratch& scratch, const Unit& unit) {
    WithEngine(problem.codes, [&]<typename E, Codes kCodes>() __attribute__((always_inline)) {
      const int64_t rows = unit.end_row - unit.first_row;
      if constexpr (E::kUnit == 1) {
        if (rows == 1) return MultiplySingleRow<E, kCodes>(problem, scratch, unit);
      }
      const int64_t panels = unit.end_panel - unit.first_panel;
      constexpr int64_t kMost = kChunk / static_cast<int64_t>(sizeof(typename E::Operand));
      static_assert(E::kMostRun <= kMost);
      const int64_t chunks = (problem.steps * kStep + kMost - 1) / kMost;
      const int64_t at_once = problem.zeros == nullptr ? E::kPanels : 1;
      const int64_t sets = (panels + at_once - 1) / at_once;
      const bool one_tile = rows <= E::kTileRows;
      for (int64_t i = 0; i < chunks * sets; ++i) {
        const int64_t chunk = one_tile ? i % chunks : i / sets;
        const int64_t panel = (one_tile ? i / chunks : i % sets) * at_once;
        const int64_t first = chunk * kMost;
        const int64_t depth = Least(kMost, problem.steps * kStep - first);
        // The last set has nothing to follow; of a part of the last chunk what is fetched is a bit too much.
        const int64_t follows = i + 1 < chunks * sets ? i + 1 : i;
        const int64_t next_panel = unit.first_panel + (one_tile ? follows / chunks : follows % sets) * at_once;
        const int64_t next_chunk = one_tile ? follows % chunks : follows / sets;
        const uint8_t* next =
            problem.weights + next_panel * problem.panel_bytes + next_chunk * kMost / kStep * StepBytes(kCodes);
        const auto multiply = [&]<int kPanels>() __attribute__((always_inline)) {
          const float* zeros = ReadScales<V>(problem, scratch, unit.first_panel + panel, kPanels, first, depth);
          MultiplyRows<E, kCodes, kPanels>(problem, scratch, unit, unit.first_panel + panel, next, first / kStep,
                                           depth / kStep, zeros, scratch.sums + panel * rows * kPanel);
        };
        static_assert(E::kPanels <= kMostPanels);
        if (at_once == E::kPanels && panels - panel >= E::kPanels) {
          multiply.template operator()<E::kPanels>();
        } else {
          multiply.template operator()<1>();
        }
      }
    });
  }

  static void MultiplyAsFloats(const Problem& problem, const Scratch& scratch, const Unit& unit) {
    const int64_t rows = unit.end_row - unit.first_row;
    const int64_t panels = unit.end_panel - unit.first_panel;
    const bool direct = rows <= kMostDirectRows;
    const int64_t most = direct ? kChunk : kFloatChunk;
    const int64_t chunks = (problem.depth + most - 1) / most;
    const bool widens = problem.type != Element::kFloat;
    if (widens && direct) {
      for (int64_t r = 0; r < rows; ++r)
        WidenRow<V>(problem, unit.first_row + r, 0, problem.depth, scratch.x + r * problem.depth);
    }
    for (int64_t i = 0; i < chunks * panels; ++i) {
      const int64_t panel = direct ? i / chunks : i % panels;
      const int64_t first = (direct ? i % chunks : i / panels) * most;
      const int64_t depth = Least(most, problem.depth - first);
      if (widens && !direct && panel == 0) {
        for (int64_t r = 0; r < rows; ++r)
          WidenRow<V>(problem, unit.first_row + r, first, depth, scratch.x + r * kFloatChunk);
      }
      const float* x = !widens  ? reinterpret_cast<const float*>(problem.x) + unit.first_row * problem.depth + first
                       : direct ? scratch.x + first
                                : scratch.x;
      const int64_t stride = widens && !direct ? kFloatChunk : problem.depth;
      WithEngine(problem.codes, [&]<typename E, Codes kCodes>() __attribute__((always_inline)) {
        MultiplyDense<L, kCodes>(problem, scratch, rows, unit.first_panel + panel, first, depth, x, stride,
                                 scratch.sums + panel * rows * kPanel);
      });
    }
  }

 public:
  template <typename E>
  static constexpr IntegerTraits TraitsOf() {
    return {E::kTileRows, E::kMostRun, sizeof(typename E::Operand), kBlockRows, kBlockPanels, kStep};
  }
  static constexpr Path kPath = {TraitsOf<NibbleEngine>(), TraitsOf<ByteEngine>(), Quantize, Multiply};
};

}  // namespace ingot::quantized_matmul
