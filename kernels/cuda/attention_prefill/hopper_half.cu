#include "cuda/attention_prefill/hopper_run.h"

namespace ingot::cuda::prefill {

template void RunHopper<__half>(const AttentionProblem&, CudaContext&, int64_t);

}  // namespace ingot::cuda::prefill
