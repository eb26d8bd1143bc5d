// Products in integers: a tile of rows of X by a panel of W.
//
// An engine E says how an instruction set multiplies codes of one kind with rows of X:
//   Lanes                    vectors of floats and 32-bit integers (rows.h)
//   Operand                  a number of X: int8_t or int16_t
//   kOffset                  what Load adds to the codes of nibbles and bytes; a row's start takes it off again
//   kMostRun                 k whose products a sum holds exactly
//   kTileRows, Vectors(r)    rows of the largest tile, and vectors of columns of a tile of r rows
//   kUnit, kParts            rows that are multiplied at once, and parts of a step that are read one after the other
//   Table, LoadTable         16 numbers of a byte to look up
//   Load<codes>(at, part, table)  the weights of a part of a step and a vector of columns
//   LoadX(at, part)          the same of kUnit rows of X
//   Sums, Zero, Add          sums of products of kUnit rows with a vector of columns
//   Finish(sums, starts, out) the sums as 32-bit integers, with each row's start
#pragma once

#include "cpu/quantized_matmul/rows.h"

namespace ingot::quantized_matmul {

// Bytes of a step of the packed weights (quantized_matmul.h).
INGOT_INLINE constexpr int64_t StepBytes(Codes codes) {
  return codes == Codes::kBytes ? kPanel * kStep : kPanel * kStep / 2;
}

// Calls body with the rows of the smallest tile that holds so many rows.
template <typename E, typename Body>
INGOT_INLINE void WithTileRows(int64_t rows, Body&& body) {
  if constexpr (E::kTileRows >= 12) {
    if (rows > 8) return body.template operator()<12>();
  }
  if constexpr (E::kTileRows >= 8) {
    if (rows > 6) return body.template operator()<8>();
  }
  if constexpr (E::kTileRows >= 6) {
    if (rows > 4) return body.template operator()<6>();
  }
  if constexpr (E::kTileRows >= 4) {
    if (rows > 2) return body.template operator()<4>();
  }
  if constexpr (E::kUnit == 1) {
    if (rows == 1) return body.template operator()<1>();
  }
  return body.template operator()<2>();
}

// A tile's part of X.
template <typename Operand>
struct TileRows {
  const Operand* values;
  const float* scales;
  const int32_t* starts;
  const float* sums;
};

// Adds the products of kRows rows with columns of a panel over `steps` steps to their sums, kPanel apart.
template <typename E, Codes kCodes, int kRows>
[[gnu::noinline]] void MultiplyTile(const Problem& problem, const uint8_t* weights, TileRows<typename E::Operand> x,
                                    int64_t steps, const float* scales, const float* zeros, float* sums) {
  using L = typename E::Lanes;
  using V = typename L::V;
  constexpr int kVectors = E::Vectors(kRows);
  constexpr int kUnits = kRows / E::kUnit;
  constexpr bool kKeepsSums = kRows * kVectors <= 4;  // in registers: in memory they would wait for one another
  const typename E::Table table = E::LoadTable(problem.table_bytes);
  const int64_t run_steps = problem.run / kStep;
  const int64_t group_runs = Least(problem.group, kChunk) / problem.run;
  typename V::Float kept[kRows][kVectors];
  if constexpr (kKeepsSums) {
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) kept[r][v] = V::Load(sums + r * kPanel + v * V::kLanes);
  }
  int64_t left = group_runs;
  for (int64_t step = 0; step < steps; step += run_steps) {
    typename E::Sums products[kUnits][kVectors];
    for (int u = 0; u < kUnits; ++u)
      for (int v = 0; v < kVectors; ++v) products[u][v] = E::Zero();
    const int64_t count = Least(run_steps, steps - step);
    for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 2
      for (int part = 0; part < E::kParts; ++part) {
        typename E::Weights w[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) w[v] = E::template Load<kCodes>(weights + v * V::kLanes * 4, part, table);
#pragma GCC unroll 12
        for (int u = 0; u < kUnits; ++u) {
          const typename E::X one = E::LoadX(x.values + u * E::kUnit * kStep, part);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) E::Add(products[u][v], w[v], one);
        }
      }
      weights += StepBytes(kCodes);
      x.values += kRows * kStep;
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const auto scale = V::Load(scales + v * V::kLanes);
#pragma GCC unroll 12
      for (int u = 0; u < kUnits; ++u) {
        typename L::Int out[E::kUnit];
        E::Finish(products[u][v], x.starts + u * E::kUnit, out);
#pragma GCC unroll 2
        for (int i = 0; i < E::kUnit; ++i) {
          const int r = u * E::kUnit + i;
          auto product = L::ToFloat(out[i]);
          if (zeros != nullptr) product = V::Fma(V::Load(zeros + v * V::kLanes), V::Set(-x.sums[r]), product);
          const auto factor = scale * V::Set(x.scales[r]);
          float* at = sums + r * kPanel + v * V::kLanes;
          if constexpr (kKeepsSums) {
            kept[r][v] = V::Fma(product, factor, kept[r][v]);
          } else {
            V::Store(at, V::Fma(product, factor, V::Load(at)));
          }
        }
      }
    }
    // Sums stay in memory: in registers there would be none left for the products.
    if constexpr (!kKeepsSums) asm volatile("" ::: "memory");
    x.scales += kRows;
    x.starts += kRows;
    x.sums += kRows;
    if (--left == 0) {
      left = group_runs;
      scales += kPanel;
      if (zeros != nullptr) zeros += kPanel;
    }
  }
  if constexpr (kKeepsSums) {
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) V::Store(sums + r * kPanel + v * V::kLanes, kept[r][v]);
  }
}

// All tiles of a unit by one panel over the steps from `first_step` on; scales and zeros are those of these steps.
template <typename E, Codes kCodes>
INGOT_INLINE void MultiplyRows(const Problem& problem, const Scratch& scratch, const Unit& unit, int64_t panel,
                               int64_t first_step, int64_t steps, const float* zeros, float* sums) {
  using V = typename E::Lanes::V;
  const int64_t runs = (problem.steps * kStep + problem.run - 1) / problem.run;
  const int64_t first_run = first_step * kStep / problem.run;
  const uint8_t* weights = problem.weights + panel * problem.panel_bytes + first_step * StepBytes(kCodes);
  for (int64_t row = unit.first_row; row < unit.end_row; row += E::kTileRows) {
    WithTileRows<E>(unit.end_row - row, [&]<int kRows>() __attribute__((always_inline)) {
      const int64_t base = row - scratch.base_row;
      const int64_t run = base * runs + first_run * kRows;
      const TileRows<typename E::Operand> x = {static_cast<const typename E::Operand*>(scratch.rows.values) +
                                                   (base * problem.steps + first_step * kRows) * kStep,
                                               scratch.rows.scales + run, scratch.rows.starts + run,
                                               scratch.rows.sums + run};
      for (int v = 0; v < kPanel / V::kLanes; v += E::Vectors(kRows)) {
        const int64_t column = v * V::kLanes;
        MultiplyTile<E, kCodes, kRows>(problem, weights + column * 4, x, steps, scratch.scales + column,
                                       zeros == nullptr ? nullptr : zeros + column,
                                       sums + (row - unit.first_row) * kPanel + column);
      }
    });
  }
}

}  // namespace ingot::quantized_matmul
