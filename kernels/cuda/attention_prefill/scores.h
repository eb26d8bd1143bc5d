// What both paths' parameters say about scores.
#pragma once

#include <algorithm>

#include "cuda/attention/problem.h"
#include "cuda/attention_prefill/bounds.h"
#include "cuda/attention_prefill/rows.h"

namespace ingot::cuda::prefill {

inline Bounds BoundsOf(const AttentionProblem& problem) {
  const auto bound = [](int64_t distance) { return static_cast<int32_t>(std::min<int64_t>(distance, kFarthest)); };
  return {static_cast<int32_t>(problem.queries),
          static_cast<int32_t>(problem.keys),
          bound(problem.left),
          bound(problem.right),
          static_cast<int32_t>(problem.sink_keys),
          problem.at_end,
          problem.long_lengths,
          problem.lengths};
}

// A softcap c makes c tanh(scale s / c) of s, which is c - 2 c / (1 + e^(2 scale s / c)).
template <typename Parameters>
void SetScores(const AttentionProblem& problem, Parameters& p) {
  p.scale = problem.softcap > 0 ? kLog2E : problem.scale * kLog2E;
  p.cap_out = problem.softcap;
  p.cap_in = problem.softcap > 0 ? 2 * kLog2E * problem.scale / problem.softcap : 0;
}

}  // namespace ingot::cuda::prefill
