#include "cuda/attention_decode/attention_decode.h"
#include "cuda/attention_decode/launch_decode.h"

namespace ingot::cuda {
namespace {

constexpr int64_t kRowsOfBlock = 16;

// Bytes from an element of 1 or 2 bytes to another that are whole pieces of 16, and fewer than 2^32 of these.
bool IsLoadable(const AttentionTensor& tensor, int64_t batches, int64_t steps, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(tensor.data) % 16 != 0 || tensor.size != 1) return false;
  for (const int64_t stride : {tensor.batch, tensor.sequence, tensor.head}) {
    if (stride * bytes % 16 != 0) return false;
  }
  return (batches * tensor.batch + steps * tensor.sequence) * bytes / 16 < int64_t{1} << 32;
}

}  // namespace

bool DecodeAttention(const AttentionProblem& problem, CudaContext& context, int64_t variant) {
  const AttentionElement element = problem.k.element;
  if (problem.mask.data != nullptr || problem.size != problem.value_size) return false;
  const int64_t bytes = element == AttentionElement::kHalf || element == AttentionElement::kBfloat ? 2 : 1;
  const int64_t batches = problem.pages != nullptr ? problem.pool_pages : problem.batches;
  const int64_t steps = problem.pages != nullptr ? problem.page_size : problem.keys;
  if (!IsLoadable(problem.k, batches, steps, bytes) || !IsLoadable(problem.v, batches, steps, bytes)) return false;
  const int64_t rows = problem.queries * problem.group;
  const int64_t row_blocks = (rows + kRowsOfBlock - 1) / kRowsOfBlock;
  if (rows >= int64_t{1} << 30 || problem.batches * problem.kv_heads * row_blocks >= int64_t{1} << 30) return false;

  decode::Plan plan{};
  plan.row_blocks = static_cast<int32_t>(row_blocks);
  const bool brain = element == AttentionElement::kBfloat;
  const AttentionElement q = problem.q.element;
  plan.twice = q == AttentionElement::kFloat || (brain && q == AttentionElement::kHalf);
  plan.normalized = !brain && q != AttentionElement::kHalf;
  switch (element) {
    case AttentionElement::kHalf:
      return decode::LaunchDecode<AttentionElement::kHalf>(problem, plan, variant, context);
    case AttentionElement::kBfloat:
      return decode::LaunchDecode<AttentionElement::kBfloat>(problem, plan, variant, context);
    case AttentionElement::kInt8:
      return decode::LaunchDecode<AttentionElement::kInt8>(problem, plan, variant, context);
    case AttentionElement::kFp8:
      return decode::LaunchDecode<AttentionElement::kFp8>(problem, plan, variant, context);
    default:
      return false;
  }
}

}  // namespace ingot::cuda
