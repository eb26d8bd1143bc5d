// Full trees for many rows at once, over a vocabulary of vectors: rows lie side by side, every node selects between
// what its children give, and nothing branches or gathers.
#pragma once

#include "cpu/packed_trees/full.h"
#include "simd/vector_portable.h"

namespace ingot::trees {

// Vectors that share the loads of a node. Each level holds one result while it waits for the other: two vectors of
// seven levels leave two of sixteen registers.
constexpr int kVectors = 2;

template <typename V>
struct Values {
  typename V::Float part[kVectors];
};

// What the part of a tree below a node gives.
template <typename V, int kLevels>
INGOT_INLINE Values<V> Below(const FullNode* nodes, const float* leaves, const float* columns, int64_t node) {
  Values<V> result;
  if constexpr (kLevels == 0) {
    for (auto& part : result.part) part = V::Set(leaves[node]);
  } else {
    const Values<V> yes = Below<V, kLevels - 1>(nodes, leaves, columns, 2 * node);
    const Values<V> no = Below<V, kLevels - 1>(nodes, leaves, columns, 2 * node + 1);
    const float* x = columns + nodes[node].feature * kBlock;
    const auto limit = V::Set(nodes[node].limit);
    for (int i = 0; i < kVectors; ++i)
      result.part[i] = V::Select(V::Load(x + i * V::kLanes), limit, yes.part[i], no.part[i]);
  }
  return result;
}

template <typename V, int kLevels>
INGOT_INLINE void EvaluateLevels(const FullNode* nodes, const float* leaves, const float* columns, int64_t rows,
                                 float* values) {
  static_assert(kBlock % (kVectors * V::kLanes) == 0);
  for (int64_t row = 0; row < rows; row += kVectors * V::kLanes) {
    const Values<V> found = Below<V, kLevels>(nodes, leaves - (int64_t{1} << kLevels), columns + row, 1);
    for (int i = 0; i < kVectors; ++i) V::Store(values + row + i * V::kLanes, found.part[i]);
  }
}

template <typename V, int kLevels>
INGOT_INLINE void EvaluateTree(const FullNode* nodes, const float* leaves, int levels, const float* columns,
                               int64_t rows, float* values) {
  if (levels == kLevels) return EvaluateLevels<V, kLevels>(nodes, leaves, columns, rows, values);
  if constexpr (kLevels > 1) EvaluateTree<V, kLevels - 1>(nodes, leaves, levels, columns, rows, values);
}

// A node's select takes four operations of a vector, a step of a walk about ten: 2^levels * 4 / lanes against levels *
// 10 a row.
template <typename V>
constexpr int kWorthwhile = V::kLanes >= 8 ? kMostLevels : 6;

}  // namespace ingot::trees
