// Products in float32: weights become floats, in registers for a few rows, else in a panel in the first-level cache.
#pragma once

#include "cpu/quantized_matmul/integer.h"
#include "cpu/quantized_matmul/scales.h"

namespace ingot::quantized_matmul {

// The eight numbers of a step and a vector of columns: code * scale + shift.
template <typename L, Codes kCodes>
struct StepFloats {
  using Float = typename L::V::Float;
  typename L::Int first, second;  // bytes of k 0 to 3 and of k 4 to 7; or all nibbles
  Float scale, shift;

  INGOT_INLINE StepFloats(const uint8_t* at, Float scale_of, Float shift_of) : scale(scale_of), shift(shift_of) {
    first = L::LoadInts(at);
    second = kCodes == Codes::kBytes ? L::LoadInts(at + kPanel * 4) : first;
  }
  INGOT_INLINE Float operator()(int k, const float* table) const {
    const int nibble = k < 4 ? 2 * k : 2 * (k - 4) + 1;
    Float code;
    if constexpr (kCodes == Codes::kBytes) {
      code = L::Byte(k < 4 ? first : second, k % 4);
    } else if constexpr (kCodes == Codes::kNibbles) {
      code = L::Nibble(first, nibble);
    } else {
      code = L::LookUp(table, first, nibble);
    }
    return L::V::Fma(code, scale, shift);
  }
};

// -zero * scale: what the numbers of code 0 are. The codes of nibbles are counted from 8.
template <typename V, Codes kCodes>
INGOT_INLINE typename V::Float ShiftOf(typename V::Float scale, const float* zeros) {
  constexpr float kOffset = kCodes == Codes::kNibbles ? 8 : 0;
  if (zeros == nullptr) return V::Set(-kOffset) * scale;
  return (V::Set(-kOffset) - V::Load(zeros)) * scale;
}

// Calls body(step, floats...) for each step of columns [v, v + kVectors) of a panel.
template <typename L, Codes kCodes, int kVectors, typename Body>
INGOT_INLINE void ForSteps(const Problem& problem, const uint8_t* weights, int64_t steps, const float* scales,
                           const float* zeros, Body&& body) {
  using V = typename L::V;
  const int64_t group_steps = problem.group / kStep;
  for (int64_t first = 0; first < steps; first += group_steps) {
    typename V::Float scale[kVectors], shift[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      scale[v] = V::Load(scales + v * V::kLanes);
      shift[v] = ShiftOf<V, kCodes>(scale[v], zeros == nullptr ? nullptr : zeros + v * V::kLanes);
    }
    const int64_t end = Least(first + group_steps, steps);
    for (int64_t step = first; step < end; ++step) {
      for (int v = 0; v < kVectors; ++v)
        body(step, v, StepFloats<L, kCodes>(weights + v * V::kLanes * 4, scale[v], shift[v]));
      weights += StepBytes(kCodes);
    }
    scales += kPanel;
    if (zeros != nullptr) zeros += kPanel;
  }
}

// Adds the products of kRows rows, `stride` apart, with a panel over `depth` k to their sums. The weights of the last
// step may reach beyond the rows.
template <typename L, Codes kCodes, int kRows>
[[gnu::noinline]] void MultiplyDirect(const Problem& problem, const uint8_t* weights, const float* x, int64_t stride,
                                      int64_t depth, const float* scales, const float* zeros, float* sums) {
  using V = typename L::V;
  constexpr int kVectors = L::kVectors;
  // A multiply-add waits for the one before it into the same sum: few rows have several sums of every so many k.
  constexpr int kSums = kRows * kVectors <= 2 ? 4 : kRows * kVectors <= 4 ? 2 : 1;
  typename V::Float total[kRows][kVectors][kSums];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      for (int i = 0; i < kSums; ++i) total[r][v][i] = V::Set(0);
    }
  }
  const auto add = [&](int64_t step, int v, const StepFloats<L, kCodes>& floats,
                       int count) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int k = 0; k < kStep; ++k) {
      if (k >= count) break;
      const auto w = floats(k, problem.table_floats);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r)
        total[r][v][k % kSums] = V::Fma(w, V::Set(x[r * stride + step * kStep + k]), total[r][v][k % kSums]);
    }
  };
  ForSteps<L, kCodes, kVectors>(problem, weights, (depth + kStep - 1) / kStep, scales, zeros,
                                [&](int64_t step, int v, const StepFloats<L, kCodes>& floats)
                                    __attribute__((always_inline)) {
                                      const int64_t left = depth - step * kStep;
                                      if (left >= kStep) {
                                        add(step, v, floats, kStep);
                                      } else {
                                        add(step, v, floats, static_cast<int>(left));
                                      }
                                    });
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      float* at = sums + r * kPanel + v * V::kLanes;
      auto sum = V::Load(at) + total[r][v][0];
      for (int i = 1; i < kSums; ++i) sum = sum + total[r][v][i];
      V::Store(at, sum);
    }
  }
}

// The weights of `steps` steps as floats, [k, kPanel].
template <typename L, Codes kCodes>
[[gnu::noinline]] void WidenPanel(const Problem& problem, const uint8_t* weights, int64_t steps, const float* scales,
                                  const float* zeros, float* panel) {
  ForSteps<L, kCodes, L::kVectors>(
      problem, weights, steps, scales, zeros,
      [&](int64_t step, int v, const StepFloats<L, kCodes>& floats) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int k = 0; k < kStep; ++k)
          L::V::Store(panel + (step * kStep + k) * kPanel + v * L::V::kLanes, floats(k, problem.table_floats));
      });
}

template <typename L, int kRows>
[[gnu::noinline]] void MultiplyFloats(const float* panel, const float* x, int64_t stride, int64_t depth, float* sums) {
  using V = typename L::V;
  typename V::Float total[kRows][L::kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < L::kVectors; ++v) total[r][v] = V::Load(sums + r * kPanel + v * V::kLanes);
  for (int64_t k = 0; k < depth; ++k) {
    typename V::Float w[L::kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < L::kVectors; ++v) w[v] = V::Load(panel + k * kPanel + v * V::kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const auto one = V::Set(x[r * stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < L::kVectors; ++v) total[r][v] = V::Fma(w[v], one, total[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < L::kVectors; ++v) V::Store(sums + r * kPanel + v * V::kLanes, total[r][v]);
}

// Calls body with a number of rows as a constant.
template <int kMost, typename Body>
INGOT_INLINE void WithRows(int64_t rows, Body&& body) {
  if constexpr (kMost > 1) {
    if (rows < kMost) return WithRows<kMost - 1>(rows, static_cast<Body&&>(body));
  }
  body.template operator()<kMost>();
}

// A panel by the rows of a unit over the k from `first` on; x is [rows, stride] from there.
template <typename L, Codes kCodes>
INGOT_INLINE void MultiplyDense(const Problem& problem, const Scratch& scratch, int64_t rows, int64_t panel,
                                int64_t first, int64_t depth, const float* x, int64_t stride, float* sums) {
  const float* zeros = ReadScales<typename L::V>(problem, scratch, panel, 1, first, depth);
  const uint8_t* weights = problem.weights + panel * problem.panel_bytes + first / kStep * StepBytes(kCodes);
  if (rows <= kMostDirectRows) {
    WithRows<kMostDirectRows>(rows, [&]<int kRows>() __attribute__((always_inline)) {
      MultiplyDirect<L, kCodes, kRows>(problem, weights, x, stride, depth, scratch.scales, zeros, sums);
    });
    return;
  }
  WidenPanel<L, kCodes>(problem, weights, (depth + kStep - 1) / kStep, scratch.scales, zeros, scratch.panel);
  for (int64_t row = 0; row < rows; row += L::kTileRows) {
    WithRows<L::kTileRows>(rows - row, [&]<int kRows>() __attribute__((always_inline)) {
      MultiplyFloats<L, kRows>(scratch.panel, x + row * stride, stride, depth, sums + row * kPanel);
    });
  }
}

}  // namespace ingot::quantized_matmul
