// How scattered updates combine with what stands there (ONNX ScatterND, ScatterElements).
#pragma once

#include "types.h"

namespace ingot {

enum class Reduction : int64_t { kNone = 0, kAdd = 1, kMul = 2, kMin = 3, kMax = 4 };

inline Reduction ReadReduction(int64_t code) {
  if (code < 0 || code > 4) FailKernel("there is no reduction ", code);
  return static_cast<Reduction>(code);
}

// Integers wrap around, as in NumPy; a NaN stays one.
template <Reduction kReduction, typename T>
T Reduced(T current, T update) {
  using C = Computed<T>;
  const C a = Widen(current);
  const C b = Widen(update);
  if constexpr (kReduction == Reduction::kMin || kReduction == Reduction::kMax) {
    if constexpr (std::is_floating_point_v<C>) {
      if (std::isnan(a)) return current;
      if (std::isnan(b)) return update;
    }
    return (kReduction == Reduction::kMin ? b < a : a < b) ? update : current;
  } else if constexpr (std::is_integral_v<C>) {
    const auto x = static_cast<uint64_t>(a);
    const auto y = static_cast<uint64_t>(b);
    return static_cast<T>(kReduction == Reduction::kAdd ? x + y : x * y);
  } else {
    return static_cast<T>(kReduction == Reduction::kAdd ? a + b : a * b);
  }
}

// Calls body(combine), where combine(T current, T update) gives what an element of `tensor` becomes.
template <typename Body>
void DispatchReduction(const char* kernel, const DLTensor& tensor, Reduction reduction, Body&& body) {
  if (reduction == Reduction::kNone) {
    return DispatchSize(tensor, [&](auto zero) {
      using T = decltype(zero);
      body([](T, T update) { return update; }, zero);
    });
  }
  DispatchNumber(kernel, tensor, [&](auto zero) {
    using T = decltype(zero);
    switch (reduction) {
      case Reduction::kAdd:
        return body(Reduced<Reduction::kAdd, T>, zero);
      case Reduction::kMul:
        return body(Reduced<Reduction::kMul, T>, zero);
      case Reduction::kMin:
        return body(Reduced<Reduction::kMin, T>, zero);
      default:
        return body(Reduced<Reduction::kMax, T>, zero);
    }
  });
}

}  // namespace ingot
