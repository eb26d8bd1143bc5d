#include "cuda/attention_prefill/hopper_run.h"

namespace ingot::cuda::prefill {

template void RunHopper<__nv_bfloat16>(const AttentionProblem&, CudaContext&, int64_t);

}  // namespace ingot::cuda::prefill
