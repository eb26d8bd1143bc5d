// Writes steps into a cache, on a GPU: the contract is that of cpu/tensor_scatter/tensor_scatter.h, but what depends on
// data cannot be refused: a step before the first slot, or without a ring past the last one, is not written.
#pragma once

#include "cuda/kernel.h"

namespace ingot {

void TensorScatter(CudaContext& context);

}  // namespace ingot
