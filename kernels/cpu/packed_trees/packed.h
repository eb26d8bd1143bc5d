// Walks of one row down many trees. Nothing that is read from a forest is believed: no walk leaves the tensors,
// whatever they hold, and it ends, for children come after their parents.
#pragma once

#include "cpu/packed_trees/full.h"
#include "cpu/packed_trees/packed_trees.h"

namespace ingot::trees {

constexpr int64_t kChunk = 64;  // trees that a block of rows is walked down while they are in the caches

struct Packed {
  const PackedNode* nodes;
  uint32_t node_count;
  uint32_t feature_count;
  bool missing;  // whether a missing value passes some of the tests
};

// What the leaves at which walks ended give.
struct Leaves {
  float value[kChunk];
  uint32_t target[kChunk];
};

// Takes a row down `count` trees, at most kChunk, from their roots. False if a node is not what it should be.
using Walk = bool (*)(const Packed& forest, const float* row, const int32_t* roots, int64_t count, Leaves& leaves);

// The same for any machine, eight trees in step, without a branch that could not be predicted. Throws for nodes that
// are not what they should be.
bool WalkInStep(const Packed& forest, const float* row, const int32_t* roots, int64_t count, Leaves& leaves);

// How an instruction set uses trees.
struct Evaluator {
  Evaluate full;
  // All nodes are tested, of which a walk visits one in a level: at more levels than these, walks are faster.
  int most_levels;
  Walk walk;
};

extern const Evaluator kPortable;
extern const Evaluator kAvx2;
extern const Evaluator kAvx512;
extern const Evaluator kNeon;

}  // namespace ingot::trees
