#include "cuda/attention_prefill/ampere_run.h"

namespace ingot::cuda::prefill {

template void RunAmpere<__half>(const AttentionProblem&, CudaContext&);

}  // namespace ingot::cuda::prefill
