// What happens to finished sums: bias, activation, residual.
#pragma once

#include "cpu/quantized_matmul/rows.h"

namespace ingot::quantized_matmul {

template <typename V>
INGOT_INLINE typename V::Float Activate(Activation activation, typename V::Float x) {
  const auto one = V::Set(1), half = V::Set(0.5f);
  switch (activation) {
    case Activation::kRelu:
      return V::Max(V::Set(0), x);
    case Activation::kGelu:
      return half * x * (one + simd::Erf<V>(x * V::Set(0.70710678f)));
    case Activation::kGeluTanh:  // sqrt(2 / pi) (x + 0.044715 x^3)
      return half * x * (one + simd::Tanh<V>(V::Set(0.79788456f) * V::Fma(V::Set(0.044715f) * x, x * x, x)));
    case Activation::kSilu:
      return x / (one + simd::Exp<V>(V::Set(0) - x));
    default:
      return x;
  }
}

// Writes a row's columns of a panel.
template <typename V, typename T>
INGOT_INLINE void FinishRow(const Problem& problem, int64_t row, int64_t panel, const float* sums) {
  const int64_t columns = Least(kPanel, problem.columns - panel * kPanel);
  const int64_t at = row * problem.columns + panel * kPanel;
  T* to = reinterpret_cast<T*>(problem.y) + at;
  const T* residual = reinterpret_cast<const T*>(problem.residual) + at;
  for (int64_t i = 0; i < columns; i += V::kLanes) {
    const bool whole = columns - i >= V::kLanes;
    const auto load = [&]<typename U>(const U* from) __attribute__((always_inline)) {
      return whole ? V::Load(from + i) : V::LoadFirst(from + i, columns - i);
    };
    auto value = V::Load(sums + i);
    if (problem.bias != nullptr) value = value + load(problem.bias + panel * kPanel);
    value = Activate<V>(problem.activation, value);
    if (problem.residual != nullptr) value = value + load(residual);
    if (whole) {
      V::Store(to + i, value);
    } else {
      V::StoreFirst(to + i, columns - i, value);
    }
  }
}

// Writes what a unit's sums [panels, rows, kPanel] are, row by row: those of Y may be a page apart.
template <typename V>
[[gnu::noinline]] void Finish(const Problem& problem, const Unit& unit, const float* sums) {
  const int64_t rows = unit.end_row - unit.first_row;
  WithType(problem.type, [&]<typename T>(T*) __attribute__((always_inline)) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t panel = unit.first_panel; panel < unit.end_panel; ++panel)
        FinishRow<V, T>(problem, unit.first_row + row, panel,
                        sums + ((panel - unit.first_panel) * rows + row) * kPanel);
  });
}

}  // namespace ingot::quantized_matmul
