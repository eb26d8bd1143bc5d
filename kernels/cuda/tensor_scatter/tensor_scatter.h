// Writes steps into a cache, on a GPU: the contract is that of cpu/tensor_scatter/tensor_scatter.h. A step before the
// first slot, or without a ring past the last one, is reported (cuda/report.h) and not written; others are.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

void TensorScatter(CudaContext& context);

}  // namespace ingot
