#include "cuda/attention_decode/parts.h"
#include "cuda/launch.h"

namespace ingot::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMostParts = 256;
constexpr int kMostValues = 256 / 32;  // of a row, for each lane

// One block for each row; its warps take every fourth part.
__global__ void __launch_bounds__(32 * kWarps) Combine(const AttentionProblem problem, const Parts parts) {
  __shared__ float shared_sums[kWarps];
  __shared__ float shared_out[kWarps][256];
  ptx::GridDependencyWait();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t rows = problem.queries * problem.group;
  const int64_t row = blockIdx.x % rows;
  const int64_t kv_head = blockIdx.x / rows % problem.kv_heads;
  const int64_t batch = blockIdx.x / rows / problem.kv_heads;

  float max = -INFINITY;
  for (int part = lane; part < parts.count; part += 32) {
    const State state = parts.states[PartRow(problem, parts, batch, kv_head, part, row)];
    if (state.sum != 0) max = fmaxf(max, state.max);
  }
  for (int offset = 16; offset > 0; offset /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
  const float base = max == -INFINITY ? 0 : max;

  float out[kMostValues] = {};
  float sum = 0;
#pragma unroll 4
  for (int part = warp; part < parts.count; part += kWarps) {
    const int64_t at = PartRow(problem, parts, batch, kv_head, part, row);
    const State state = parts.states[at];
    if (state.sum == 0) continue;  // its output was not written
    const float weight = exp2f(state.max - base);
    sum += weight * state.sum;
    const float* from = parts.outputs + at * problem.value_size;
#pragma unroll
    for (int i = 0; i < kMostValues; ++i) {
      if (i * 32 + lane < problem.value_size) out[i] += weight * from[i * 32 + lane];
    }
  }
  if (lane == 0) shared_sums[warp] = sum;
#pragma unroll
  for (int i = 0; i < kMostValues; ++i) shared_out[warp][i * 32 + lane] = out[i];
  __syncthreads();

  sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += shared_sums[i];
  const float factor = OutputFactor(problem, kv_head * problem.group + row % problem.group, max, sum);
  const int64_t to = OutputOf(problem, batch, kv_head, row);
  for (int i = static_cast<int>(threadIdx.x); i < problem.value_size; i += 32 * kWarps) {
    float total = 0;
    for (int j = 0; j < kWarps; ++j) total += shared_out[j][i];
    StoreFloat(const_cast<void*>(problem.o.data), problem.o.element, to + i, total * factor);
  }
}

}  // namespace

int32_t PartsFor(int64_t blocks, int64_t slots, int64_t keys, int64_t least) {
  const int64_t most = std::min<int64_t>(std::max<int64_t>(keys / least, 1), kMostParts);
  // Of the counts whose last wave of blocks is fullest, the least: each part costs a start and a share of the second
  // kernel.
  int64_t best = 1;
  double best_share = 0;
  for (int64_t count = 1; count <= most; ++count) {
    const int64_t waves = (blocks * count + slots - 1) / slots;
    const double share = static_cast<double>(blocks * count) / static_cast<double>(waves * slots);
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
  CudaContext::Check(LaunchWith(true, Combine, dim3(static_cast<uint32_t>(rows)), dim3(32 * kWarps), 0,
                                context.stream(), problem, parts),
                     "attention: putting parts together");
}

}  // namespace ingot::cuda
