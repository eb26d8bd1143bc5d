#include "cuda/attention_decode/parts.h"
#include "cuda/launch.h"

namespace ingot::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMostParts = 256;
constexpr int kAhead = 4;  // parts whose loads a warp starts together

// One block for each row; its warps take every eighth part. Nothing is loaded at an address, or under a condition, that
// comes from memory: the latency of one load is what this kernel costs. kSlices: of 32 elements of a row.
template <int kSlices>
__global__ void __launch_bounds__(32 * kWarps) Combine(const AttentionProblem problem, const Parts parts) {
  __shared__ State shared_states[kWarps];
  __shared__ float shared_out[kWarps][32 * kSlices];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto group = static_cast<uint32_t>(problem.group);
  const uint32_t rows = static_cast<uint32_t>(problem.queries) * group;
  const auto kv_heads = static_cast<uint32_t>(problem.kv_heads);
  const auto size = static_cast<int>(problem.value_size);
  const uint32_t row = blockIdx.x % rows;
  const uint32_t kv_head = blockIdx.x / rows % kv_heads;
  const uint32_t batch = blockIdx.x / rows / kv_heads;
  ptx::GridLaunchDependents();
  ptx::GridDependencyWait();

  float max = -INFINITY;
  float sum = 0;
  float out[kSlices] = {};
  for (int first = warp; first < parts.count; first += kWarps * kAhead) {
    State states[kAhead];
    float values[kAhead][kSlices];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int part = first + j * kWarps;
      const bool exists = part < parts.count;
      const int64_t at = PartRow(problem, parts, batch, kv_head, exists ? part : first, row);
      states[j] = parts.states[at];
      if (!exists) states[j].sum = 0;
#pragma unroll
      for (int i = 0; i < kSlices; ++i)
        values[j][i] = i * 32 + lane < size ? parts.outputs[at * size + i * 32 + lane] : 0.0f;
    }
    float top = max;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) top = states[j].sum != 0 ? fmaxf(top, states[j].max) : top;
    const float base = top == -INFINITY ? 0 : top;
    const float shrink = exp2f(max - base);
    max = top;
    sum *= shrink;
#pragma unroll
    for (int i = 0; i < kSlices; ++i) out[i] *= shrink;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const bool seen = states[j].sum != 0;  // if not, its output was not written
      const float weight = seen ? exp2f(states[j].max - base) : 0.0f;
      sum += weight * states[j].sum;
#pragma unroll
      for (int i = 0; i < kSlices; ++i) out[i] += seen ? weight * values[j][i] : 0.0f;
    }
  }
  if (lane == 0) shared_states[warp] = {max, sum};
#pragma unroll
  for (int i = 0; i < kSlices; ++i) shared_out[warp][i * 32 + lane] = out[i];
  __syncthreads();

  float all = -INFINITY;
  for (int i = 0; i < kWarps; ++i) all = fmaxf(all, shared_states[i].max);
  const float base = all == -INFINITY ? 0 : all;
  float weights[kWarps];
  float total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    weights[i] = exp2f(shared_states[i].max - base);
    total += weights[i] * shared_states[i].sum;
  }
  const uint32_t query = row / group;
  const uint32_t head = kv_head * group + row % group;
  const float factor = OutputFactor(problem, head, all, total);
  const int64_t to = batch * problem.o.batch + query * problem.o.sequence + head * problem.o.head;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += 32 * kWarps) {
    float result = 0;
#pragma unroll
    for (int j = 0; j < kWarps; ++j) result += weights[j] * shared_out[j][i];
    StoreFloat(const_cast<void*>(problem.o.data), problem.o.element, to + i, result * factor);
  }
}

}  // namespace

int32_t PartsFor(int64_t blocks, int64_t slots, int64_t keys, int64_t step) {
  const int64_t steps = std::max<int64_t>((keys + step - 1) / step, 1);
  const int64_t most = std::clamp<int64_t>(steps / 2, 1, kMostParts);
  // Of the counts whose last wave of blocks is fullest, the least: each part costs a start and a share of the second
  // kernel. Parts have whole steps: some counts would leave the last parts empty.
  int64_t best = 1;
  double best_share = 0;
  for (int64_t count = 1; count <= most; ++count) {
    const int64_t each = (steps + count - 1) / count;
    if ((steps + each - 1) / each < count) continue;
    const int64_t waves = (blocks * count + slots - 1) / slots;
    const double share = static_cast<double>(blocks * steps) / static_cast<double>(waves * slots * each);
    if (share > best_share + 0.04) {
      best = count;
      best_share = share;
    }
    if (waves > 4) break;
  }
  return static_cast<int32_t>(best);
}

Parts AllocateParts(const AttentionProblem& problem, int32_t count, CudaContext& context) {
  if (count == 1) return {1, nullptr, nullptr};
  const auto rows = static_cast<size_t>(problem.batches * problem.kv_heads * count * problem.queries * problem.group);
  return {count, context.CudaContext::DeviceScratch<State>(rows),
          context.CudaContext::DeviceScratch<float>(rows * static_cast<size_t>(problem.value_size))};
}

void CombineParts(const AttentionProblem& problem, const Parts& parts, CudaContext& context) {
  if (parts.count == 1) return;
  const int64_t rows = problem.batches * problem.kv_heads * problem.queries * problem.group;
  const dim3 grid(static_cast<uint32_t>(rows));
  const dim3 block(32 * kWarps);
  CudaContext::Check(problem.value_size <= 128
                         ? LaunchWith(true, Combine<4>, grid, block, 0, context.stream(), problem, parts)
                         : LaunchWith(true, Combine<8>, grid, block, 0, context.stream(), problem, parts),
                     "attention: putting parts together");
}

}  // namespace ingot::cuda
