// The two paths, compiled for each element type (hopper_half.cu, ampere_half.cu, ...).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/attention/problem.h"
#include "cuda/kernel.h"

namespace ingot::cuda::prefill {

// Problems that PrefillAttention has checked, with Element in Q, K, V and O. `variant`: hopper_run.h.
template <typename Element>
void RunHopper(const AttentionProblem& problem, CudaContext& context, int64_t variant);
template <typename Element>
void RunAmpere(const AttentionProblem& problem, CudaContext& context);

extern template void RunHopper<__half>(const AttentionProblem&, CudaContext&, int64_t);
extern template void RunHopper<__nv_bfloat16>(const AttentionProblem&, CudaContext&, int64_t);
extern template void RunAmpere<__half>(const AttentionProblem&, CudaContext&);
extern template void RunAmpere<__nv_bfloat16>(const AttentionProblem&, CudaContext&);

}  // namespace ingot::cuda::prefill
