#include "cpu/packed_trees/packed.h"

#include <algorithm>

namespace ingot::trees {

namespace {

template <bool kMissing>
void Walks(const Packed& forest, const float* row, const int32_t* roots, int64_t count, Leaves& leaves) {
  constexpr int kTogether = 8;
  for (int64_t first = 0; first < count; first += kTogether) {
    const int64_t some = std::min<int64_t>(kTogether, count - first);
    uint32_t at[kTogether];
    for (int i = 0; i < kTogether; ++i) {
      at[i] = static_cast<uint32_t>(roots[first + std::min<int64_t>(i, some - 1)]);
      if (at[i] >= forest.node_count)
        FailKernel("a tree starts at node ", static_cast<int32_t>(at[i]), " of ", forest.node_count);
    }
    uint32_t further = 1;  // not 0 while a walk goes on
    while (further != 0) {
      further = 0;
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; ++i) {
        const PackedNode& node = forest.nodes[at[i]];
        const uint32_t children = node.Children();
        const uint32_t feature = children != 0 ? node.Feature() : 0;
        if (children != 0 && feature >= forest.feature_count) [[unlikely]]
          FailKernel("node ", at[i], " tests feature ", feature, " of ", forest.feature_count);
        const float x = row[feature];
        bool passes = x <= node.limit;
        if constexpr (kMissing) passes |= (x != x) & node.MissingPasses();
        at[i] += children + (passes || children == 0 ? 0u : 1u);
        if (at[i] >= forest.node_count) [[unlikely]]
          FailKernel("a node leads to node ", at[i], " of ", forest.node_count);
        further |= children;
      }
    }
    for (int i = 0; i < some; ++i) {
      leaves.value[first + i] = forest.nodes[at[i]].limit;
      leaves.target[first + i] = forest.nodes[at[i]].Feature();
    }
  }
}

}  // namespace

bool WalkInStep(const Packed& forest, const float* row, const int32_t* roots, int64_t count, Leaves& leaves) {
  forest.missing ? Walks<true>(forest, row, roots, count, leaves) : Walks<false>(forest, row, roots, count, leaves);
  return true;
}

}  // namespace ingot::trees
