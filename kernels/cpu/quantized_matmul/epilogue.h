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

// Writes the columns of a panel in the rows of a unit.
template <typename V>
[[gnu::noinline]] void Finish(const Problem& problem, const Unit& unit, int64_t panel, const float* sums) {
  WithType(problem.type, [&]<typename T>(T*) __attribute__((always_inline)) {
    const int64_t columns = Least(kPanel, problem.columns - panel * kPanel);
    for (int64_t row = unit.first_row; row < unit.end_row; ++row, sums += kPanel) {
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
  });
}

}  // namespace ingot::quantized_matmul
