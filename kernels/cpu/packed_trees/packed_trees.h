// The scores of a forest of decision trees in which all tests are x <= limit and a leaf gives one score (what
// tree_ensemble computes for any forest), before base values and transforms.
//
// inputs   rows: float32 [n, features]
//          nodes: int32 [nodes, 2], PackedNode below
//          roots: int32 [trees], nodes
//          then, all or none, trees that are given a second time in full (full.h):
//          full: int32 [trees, 3], FullTree; full_nodes: int32 [s, 2], FullNode; full_values: float32 [s]
// ints     aggregate: trees::Aggregate::Kind. A target that no leaf gives anything to has the score 0.
//          missing: whether a missing value (NaN) passes some of the tests
// outputs  scores: float32 [n, targets], which the program states
//
// Sums are in double, in an order that does not depend on the number of threads.
#pragma once

#include "kernel.h"

namespace ingot {

struct PackedNode {
  static constexpr int kChildBits = 19;
  static constexpr int kFeatureBits = 12;

  float limit;    // x <= limit; what a leaf gives
  uint32_t word;  // from the highest bit: how far on the two children are, first that for values that pass, or 0 for a
                  // leaf; the feature, or a leaf's target; whether a missing value passes

  uint32_t Children() const { return word >> (kFeatureBits + 1); }
  uint32_t Feature() const { return word >> 1 & ((1u << kFeatureBits) - 1); }
  bool MissingPasses() const { return (word & 1) != 0; }
};

void PackedTrees(KernelContext& context);
#if defined(__x86_64__)
void PackedTreesAvx2(KernelContext& context);
void PackedTreesAvx512(KernelContext& context);
#elif defined(__aarch64__)
void PackedTreesNeon(KernelContext& context);
#endif

}  // namespace ingot
