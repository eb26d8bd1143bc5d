// Rows of bfloat16 are read as pairs: a shift makes floats of the elements at even places and a mask of those at odd
// ones, which is half of what it takes to widen them in order. What such rows are multiplied with, and the sums, are in
// that order too.
#pragma once

#include <type_traits>

#include "cpu/attention/rows.h"

namespace ingot::attention {

// How many elements of a row are read as pairs, two vectors at a time.
template <typename V, typename T>
INGOT_INLINE int64_t PairedSize(int64_t size) {
  return std::is_same_v<T, Bfloat16> ? size / (2 * V::kLanes) * (2 * V::kLanes) : 0;
}

template <typename V, typename T>
constexpr auto kLoadPair = [](const T* at, typename V::Float (&to)[2]) __attribute__((always_inline)) {
  if constexpr (std::is_same_v<T, Bfloat16>) V::LoadPairs(at, to[0], to[1]);
};
template <typename V, typename T>
constexpr auto kLoadOne = [](const T* at, typename V::Float (&to)[1])
                              __attribute__((always_inline)) { to[0] = V::Load(at); };

// Puts the elements of rows of floats into the order of such reads.
template <typename V, typename T>
INGOT_INLINE void PairRows(float* rows, int64_t count, int64_t stride, int64_t size) {
  for (float* row = rows; row < rows + count * stride; row += stride) {
    for (int64_t at = 0; at < PairedSize<V, T>(size); at += 2 * V::kLanes) {
      float in_order[2 * V::kLanes];
      std::memcpy(in_order, row + at, sizeof(in_order));
      for (int i = 0; i < V::kLanes; ++i) {
        row[at + i] = in_order[2 * i];
        row[at + V::kLanes + i] = in_order[2 * i + 1];
      }
    }
  }
}

// And back.
template <typename V, typename T>
INGOT_INLINE void UnpairRows(float* rows, int64_t count, int64_t stride, int64_t size) {
  for (float* row = rows; row < rows + count * stride; row += stride) {
    for (int64_t at = 0; at < PairedSize<V, T>(size); at += 2 * V::kLanes) {
      float paired[2 * V::kLanes];
      std::memcpy(paired, row + at, sizeof(paired));
      for (int i = 0; i < V::kLanes; ++i) {
        row[at + 2 * i] = paired[i];
        row[at + 2 * i + 1] = paired[V::kLanes + i];
      }
    }
  }
}

}  // namespace ingot::attention
