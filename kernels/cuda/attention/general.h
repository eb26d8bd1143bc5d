// Attention of anything: every type, layout, size, mask and place of keys. Arithmetic is in float32, without tensor
// cores.
#pragma once

#include "cuda/attention/problem.h"
#include "cuda/kernel.h"

namespace ingot::cuda {

// `variant`: how many parts the keys are divided into (0: as many as fill the GPU).
void GeneralAttention(const AttentionProblem& problem, CudaContext& context, int64_t variant = 0);

}  // namespace ingot::cuda
