// The scores of a forest of decision trees of any kind (ONNX TreeEnsemble and its older forms), before base values and
// transforms. Forests whose tests are all <= and whose leaves give one score each have a kernel of their own:
// packed_trees.
//
// inputs   rows: float32 or float64 [n, features]
//          nodes: int32 [nodes, 4 for float32 or 6 for float64 rows], TreeNode below. A child comes after its parent.
//          roots: int32 [trees], as a child
//          starts: int32 [leaves + 1]; targets: int32 [m]; weights: as rows [m]: leaf i gives weights[j] to targets[j]
//          for j of starts[i] … starts[i + 1]
// ints     aggregate: trees::Aggregate::Kind. A target that no leaf gives anything to has the score 0.
//          tests: enum Tests
// outputs  scores: as rows [n, targets], which the program states
//
// Sums are in double, in an order that does not depend on the number of threads.
#pragma once

#include "kernel.h"

namespace ingot {

template <typename T>
struct TreeNode {
  int32_t test;  // feature * 16 + 8 if a missing value (NaN) passes + the comparison: 0 <=, 1 <, 2 >=, 3 >, 4 ==, 5 !=
  int32_t children[2];  // for values that pass and for those that fail: a node, or -1 - leaf
  T value;              // at byte 12 for float, 16 for double
};

// What is known of all nodes of a forest.
enum class Tests : int64_t {
  kAny,
  kLessEqual,                 // comparisons are <=, and no missing value passes
  kLessEqualOrMissingValues,  // comparisons are <=
};

void TreeEnsemble(KernelContext& context);

}  // namespace ingot
