// Shallow trees in full: every leaf is at the same depth, so that no node needs to say where its children are, and
// every node can be tested for many rows at once. Plain data and functions only: see simd/vector_portable.h.
#pragma once

#include <cstdint>

namespace ingot::trees {

constexpr int kMostLevels = 7;  // python/ingot/importer/ops/ml/full_trees.py does not give deeper trees in full
constexpr int64_t kBlock = 64;  // rows that a tree is used for while it is in the first-level cache

// Where a tree is: nodes offset + 1 … offset + 2^levels - 1 of full_nodes, of which node i leads to 2i where its test
// holds and to 2i + 1 elsewhere, and 2^levels values from offset on.
struct FullTree {
  int32_t levels;  // 0 if the tree is not given in full
  int32_t offset;
  int32_t target;
};

struct FullNode {
  float limit;  // x <= limit
  int32_t feature;
};

// values[i] = what a tree gives for row i of a block, i < rows. `columns` are the block's features [features, kBlock];
// what is past the last row is garbage, in `values` too.
using Evaluate = void (*)(const FullNode* nodes, const float* leaves, int levels, const float* columns, int64_t rows,
                          float* values);

}  // namespace ingot::trees
