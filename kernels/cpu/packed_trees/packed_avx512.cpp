#include "cpu/packed_trees/evaluate.h"
#include "cpu/packed_trees/gathers_avx512.h"
#include "simd/vector_avx512.h"

namespace ingot::trees {
namespace {

void Run(const FullNode* nodes, const float* leaves, int levels, const float* columns, int64_t rows, float* values) {
  EvaluateTree<simd::Avx512, kWorthwhile<simd::Avx512>>(nodes, leaves, levels, columns, rows, values);
}

}  // namespace

const Evaluator kAvx512{Run, kWorthwhile<simd::Avx512>, WalkByGathers};

}  // namespace ingot::trees
