#include <algorithm>

#include "cpu/attention/checks.h"
#include "cuda/attention/operands.h"

namespace ingot::cuda {
namespace {

static_assert(kUnbounded == attention::kNoBound);

// Keys of a batch are 32-bit numbers.
constexpr int64_t kMostKeys = int64_t{1} << 30;

AttentionTensor TensorOf(const attention::Operand<AttentionElement>& operand) {
  return {operand.data, operand.element, operand.batch, operand.sequence, operand.head, operand.size};
}

}  // namespace

AttentionProblem ReadAttention(CudaContext& context) {
  const auto call = attention::CallReader<AttentionElement>(context).Read();
  AttentionProblem problem{};
  problem.q = TensorOf(call.q);
  problem.k = TensorOf(call.k);
  problem.v = TensorOf(call.v);
  problem.o = TensorOf(call.o);
  problem.batches = call.batches;
  problem.queries = call.queries;
  problem.keys = call.keys;
  problem.kv_heads = call.kv_heads;
  problem.group = call.group;
  problem.size = call.size;
  problem.value_size = call.value_size;
  problem.scale = call.scale;
  problem.softcap = call.softcap;
  problem.left = call.left;
  problem.right = call.right;
  problem.at_end = call.at_end;
  problem.mask = {call.mask.data, call.mask.element, call.mask.batch, call.mask.head, call.mask.query, call.mask.key};
  problem.slopes = call.slopes;
  problem.sinks = call.sinks;
  problem.sink_q = call.sink_q;
  problem.k_scales = call.k_scales;
  problem.v_scales = call.v_scales;
  problem.scales_batch = call.slots * call.kv_heads;
  problem.scales_sequence = call.kv_heads;
  problem.scales_head = 1;
  if (call.pages != nullptr) {
    problem.pages = Data<const int32_t>(*call.pages);
    problem.page_row = call.pages->shape[1];
    problem.page_size = call.slots;
    problem.pool_pages = call.pools;
    if (call.pools == 0) problem.keys = 0;  // there is no page to read in place of one that is not there
  }
  problem.sink_keys = std::min(call.sink_keys, problem.keys);
  if (call.lengths != nullptr) {
    problem.lengths = Data<const std::byte>(*call.lengths);
    problem.long_lengths = call.lengths->dtype.bits == 64;
  }
  if (call.ring != nullptr) {
    problem.ring = Data<const std::byte>(*call.ring);
    problem.long_ring = call.ring->dtype.bits == 64;
  }
  if (std::max(problem.keys, problem.queries) > kMostKeys)
    FailKernel("attention takes at most ", kMostKeys, " keys and queries, not ",
               std::max(problem.keys, problem.queries));
  return problem;
}

}  // namespace ingot::cuda
