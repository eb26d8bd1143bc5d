#include "cpu/packed_trees/evaluate.h"
#include "cpu/packed_trees/packed.h"

namespace ingot::trees {
namespace {

void Run(const FullNode* nodes, const float* leaves, int levels, const float* columns, int64_t rows, float* values) {
  EvaluateTree<simd::Portable, kWorthwhile<simd::Portable>>(nodes, leaves, levels, columns, rows, values);
}

}  // namespace

const Evaluator kPortable{Run, kWorthwhile<simd::Portable>, WalkInStep};

}  // namespace ingot::trees
