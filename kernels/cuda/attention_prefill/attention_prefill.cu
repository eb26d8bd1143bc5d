#include <cmath>

#include "cuda/attention/operands.h"
#include "cuda/attention_prefill/attention_prefill.h"
#include "cuda/attention_prefill/bounds.h"
#include "cuda/attention_prefill/paths.h"

namespace ingot::cuda {
namespace {

// What cp.async and TMA ask for.
bool IsAligned(const AttentionTensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.size == 1 && tensor.batch % 8 == 0 &&
         tensor.sequence % 8 == 0 && tensor.head % 8 == 0;
}

bool IsSize(int64_t size) { return size > 0 && size <= 256 && size % 8 == 0; }

bool Takes(const AttentionProblem& problem) {
  const AttentionElement element = problem.q.element;
  if (element != AttentionElement::kHalf && element != AttentionElement::kBfloat) return false;
  for (const AttentionTensor* tensor : {&problem.q, &problem.k, &problem.v, &problem.o})
    if (tensor->element != element || !IsAligned(*tensor)) return false;
  if (problem.pages != nullptr || problem.k_scales != nullptr) return false;
  if (reinterpret_cast<uintptr_t>(problem.sink_q) % 16 != 0) return false;
  const int64_t row_blocks = (problem.queries + 63) / 64;
  return IsSize(problem.size) && IsSize(problem.value_size) && problem.queries <= prefill::kMostPositions &&
         problem.keys <= prefill::kMostPositions &&
         problem.batches * problem.kv_heads * problem.group * row_blocks < (int64_t{1} << 31);
}

// What Hopper's path leaves to Ampere's.
bool IsPlain(const AttentionProblem& problem) {
  return problem.mask.data == nullptr && problem.slopes == nullptr && problem.ring == nullptr &&
         problem.sink_q == nullptr && problem.scale > 0 && problem.keys > 0;
}

}  // namespace

bool PrefillAttention(const AttentionProblem& problem, CudaContext& context, int64_t variant) {
  if (!Takes(problem)) return false;
  if (problem.batches == 0 || problem.queries == 0 || problem.kv_heads * problem.group == 0) return true;
  const bool half = problem.q.element == AttentionElement::kHalf;
  if (context.capability() == 90 && IsPlain(problem)) {
    half ? prefill::RunHopper<__half>(problem, context, variant)
         : prefill::RunHopper<__nv_bfloat16>(problem, context, variant);
  } else {
    half ? prefill::RunAmpere<__half>(problem, context) : prefill::RunAmpere<__nv_bfloat16>(problem, context);
  }
  return true;
}

void AttentionPrefill(CudaContext& context) {
  const auto ints = context.ints();
  if (!PrefillAttention(ReadAttention(context), context, ints.size() > 8 ? ints[8] : 0))
    FailKernel(
        "attention_prefill takes float16 or bfloat16 in contiguous caches, with heads of a multiple of 8 elements up "
        "to 256; "
        "attention takes everything else");
}

}  // namespace ingot::cuda
