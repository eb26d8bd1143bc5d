// The host's part of Ampere's path.
#pragma once

#include <algorithm>

#include "cuda/attention_prefill/ampere.h"
#include "cuda/attention_prefill/paths.h"
#include "cuda/attention_prefill/scores.h"

namespace ingot::cuda::prefill {

inline bool HasBias(const AttentionProblem& problem) {
  return problem.mask.data != nullptr || problem.slopes != nullptr || !(problem.scale > 0);
}

template <typename T>
void LaunchAmpere(const AttentionProblem& problem, CudaContext& context) {
  const auto operand = [](const AttentionTensor& tensor) {
    return AmpereOperand{tensor.data, tensor.batch, tensor.sequence, tensor.head};
  };
  AmpereParameters p{};
  p.q = operand(problem.q);
  p.k = operand(problem.k);
  p.v = operand(problem.v);
  p.o = operand(problem.o);
  p.sink_q = problem.sink_q;
  p.ring = problem.ring;
  p.long_ring = problem.long_ring;
  p.apart = problem.ring != nullptr || problem.sink_q != nullptr;
  p.bounds = BoundsOf(problem);
  p.heads = static_cast<int32_t>(problem.kv_heads * problem.group);
  p.group = static_cast<int32_t>(problem.group);
  p.all_heads = static_cast<int32_t>(problem.batches) * p.heads;
  p.row_blocks = static_cast<int32_t>((problem.queries + T::kRows - 1) / T::kRows);
  p.size = static_cast<int32_t>(problem.size);
  p.value_size = static_cast<int32_t>(problem.value_size);
  SetScores(problem, p);
  p.sinks = problem.sinks;
  if (T::kBias) {
    p.before = p.scale;
    p.scale = 1;
    p.mask = problem.mask;
    p.slopes = problem.slopes;
  }
  const auto blocks = static_cast<uint32_t>(p.all_heads * p.row_blocks);
  CudaContext::Check(Launch(AmperePrefill<T>, dim3(blocks), dim3(T::kThreads), T::kSharedBytes, context.stream(), p),
                     "attention: launch");
}

// Tiles are as large as 255 registers allow (-Xptxas -v).
template <typename Element>
void RunAmpere(const AttentionProblem& problem, CudaContext& context) {
  const int64_t size = std::max(problem.size, problem.value_size);
  if (HasBias(problem)) {
    if (size <= 64) return LaunchAmpere<AmpereTile<Element, 64, 1, 64, true>>(problem, context);
    if (size <= 96) return LaunchAmpere<AmpereTile<Element, 96, 1, 64, true>>(problem, context);
    if (size <= 128) return LaunchAmpere<AmpereTile<Element, 128, 1, 64, true>>(problem, context);
    return LaunchAmpere<AmpereTile<Element, 256, 1, 32, true>>(problem, context);
  }
  if (size <= 64) return LaunchAmpere<AmpereTile<Element, 64, 2, 64, false>>(problem, context);
  if (size <= 96) return LaunchAmpere<AmpereTile<Element, 96, 2, 64, false>>(problem, context);
  if (size <= 128) return LaunchAmpere<AmpereTile<Element, 128, 2, 32, false>>(problem, context);
  return LaunchAmpere<AmpereTile<Element, 256, 1, 64, false>>(problem, context);
}

}  // namespace ingot::cuda::prefill
