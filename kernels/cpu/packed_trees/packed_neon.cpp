#include "cpu/packed_trees/evaluate.h"
#include "cpu/packed_trees/packed.h"
#include "simd/vector_neon.h"

namespace ingot::trees {
namespace {

void Run(const FullNode* nodes, const float* leaves, int levels, const float* columns, int64_t rows, float* values) {
  EvaluateTree<simd::Neon, kWorthwhile<simd::Neon>>(nodes, leaves, levels, columns, rows, values);
}

}  // namespace

const Evaluator kNeon{Run, kWorthwhile<simd::Neon>, WalkInStep};

}  // namespace ingot::trees
