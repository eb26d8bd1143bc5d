// Reads a call of attention.
#pragma once

#include "cuda/attention/problem.h"
#include "cuda/kernel.h"

namespace ingot::cuda {

// Checks all that can be known without the data; throws for what does not fit.
AttentionProblem ReadAttention(CudaContext& context);

}  // namespace ingot::cuda
