// How the kernel of decode.h is started: it is compiled in a file for each type of keys.
#pragma once

#include "cuda/attention_decode/parts.h"

namespace ingot::cuda::decode {

struct Plan {
  int32_t row_blocks;  // of kRows rows
  int32_t stages;      // 2 to kMostStages
  bool twice;  // Q and probabilities have more bits than the tensor cores' type: what is lost is multiplied as well
  bool normalized;  // rows of Q are divided by their greatest element, as f16 has a small range
  Parts parts;
};

// Launches the kernel for the head's size; false if there is none.
template <AttentionElement kCache>
bool LaunchDecode(const AttentionProblem& problem, Plan plan, int64_t variant, CudaContext& context);

}  // namespace ingot::cuda::decode
