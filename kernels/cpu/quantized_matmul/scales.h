// Scales and zeros of a panel as floats.
#pragma once

#include "cpu/quantized_matmul/rows.h"

namespace ingot::quantized_matmul {

// 2^(code - 127): the exponent of a float, but for the least power, which is denormal, and NaN.
INGOT_INLINE float PowerOf(uint8_t code) {
  const uint32_t bits = code == 0 ? 0x400000u : code == 255 ? 0x7FC00000u : uint32_t{code} << 23;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

template <typename V>
INGOT_INLINE void WidenScales(const Problem& problem, int64_t first, int64_t count, float* to) {
  if (problem.scale_type == Element::kPower) {
    const auto* from = reinterpret_cast<const uint8_t*>(problem.scales) + first;
    for (int64_t i = 0; i < count; ++i) to[i] = PowerOf(from[i]);
    return;
  }
  WithType(problem.scale_type, [&]<typename T>(T*) __attribute__((always_inline)) {
    Widen<V>(reinterpret_cast<const T*>(problem.scales) + first, to, count);
  });
}

template <typename V>
INGOT_INLINE void WidenZeros(const Problem& problem, int64_t first, int64_t count, float* to) {
  if (problem.zero_type == Element::kByte) {
    const auto* from = reinterpret_cast<const int8_t*>(problem.zeros) + first;
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
    return;
  }
  Widen<V>(reinterpret_cast<const float*>(problem.zeros) + first, to, count);
}

// Those of `panels` panels and of the k from `first` on, at most kChunk, which starts at a multiple of their groups or
// lies in one of them. Returns the zeros, nullptr if there are none.
template <typename V>
INGOT_INLINE const float* ReadScales(const Problem& problem, const Scratch& scratch, int64_t panel, int64_t panels,
                                     int64_t first, int64_t depth) {
  const int64_t group = first / problem.group;
  const int64_t count = GroupsIn(problem, depth) * kPanel;
  for (int64_t i = 0; i < panels; ++i) {
    const int64_t at = ((panel + i) * problem.groups + group) * kPanel;
    WidenScales<V>(problem, at, count, scratch.scales + i * count);
    if (problem.zeros != nullptr) WidenZeros<V>(problem, at, count, scratch.zeros + i * count);
  }
  return problem.zeros == nullptr ? nullptr : scratch.zeros;
}

}  // namespace ingot::quantized_matmul
