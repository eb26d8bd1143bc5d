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

// A scale of Element::kPower.
struct Power {
  uint8_t code;
};

// Calls body(T*) with a null pointer of the C++ type of a scale.
template <typename Body>
INGOT_INLINE void WithScaleType(Element element, Body&& body) {
  if (element == Element::kPower) return body(static_cast<Power*>(nullptr));
  WithType(element, static_cast<Body&&>(body));
}

template <typename V, typename T>
INGOT_INLINE typename V::Float LoadScales(const T* from) {
  return V::Load(from);
}
template <typename V>
INGOT_INLINE typename V::Float LoadScales(const Power* from) {
  float scales[V::kLanes];
  for (int i = 0; i < V::kLanes; ++i) scales[i] = PowerOf(from[i].code);
  return V::Load(scales);
}

template <typename V>
INGOT_INLINE typename V::Float LoadZeros(const Problem& problem, int64_t at) {
  if (problem.zero_type == Element::kByte) return V::Load(reinterpret_cast<const int8_t*>(problem.zeros) + at);
  return V::Load(reinterpret_cast<const float*>(problem.zeros) + at);
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
    WithScaleType(problem.scale_type, [&]<typename T>(T*) __attribute__((always_inline)) {
      const T* from = reinterpret_cast<const T*>(problem.scales) + at;
      float* to = scratch.scales + i * count;
      for (int64_t j = 0; j < count; j += V::kLanes) V::Store(to + j, LoadScales<V>(from + j));
    });
    if (problem.zeros == nullptr) continue;
    float* to = scratch.zeros + i * count;
    for (int64_t j = 0; j < count; j += V::kLanes) V::Store(to + j, LoadZeros<V>(problem, at + j));
  }
  return problem.zeros == nullptr ? nullptr : scratch.zeros;
}

}  // namespace ingot::quantized_matmul
