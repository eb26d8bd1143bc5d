#include "cpu/packed_trees/evaluate.h"
#include "cpu/packed_trees/packed.h"
#include "simd/vector_avx2.h"

namespace ingot::trees {
namespace {

void Run(const FullNode* nodes, const float* leaves, int levels, const float* columns, int64_t rows, float* values) {
  EvaluateTree<simd::Avx2, kWorthwhile<simd::Avx2>>(nodes, leaves, levels, columns, rows, values);
}

}  // namespace

const Evaluator kAvx2{Run, kWorthwhile<simd::Avx2>, WalkInStep};

}  // namespace ingot::trees
