#include "checks.h"
#include "cuda/ptx.h"

namespace ingot {
namespace {

constexpr int kThreads = 256;

__device__ int WarpSum(int value) {
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(0xffffffff, value, bits);
  return value;
}

// Row 0: __syncthreads and shuffles; row 1: redux and atomics; row 2: named barriers between a producer and a consumer
// half, over several rounds; row 3: mbarriers in the same roles (0 where there are none).
__global__ void __launch_bounds__(kThreads) BarriersKernel(const int* values, int* sums) {
  __shared__ int partial[kThreads / 32];
  __shared__ int total;
  __shared__ int passed[kThreads / 2];
  const int thread = static_cast<int>(threadIdx.x);
  const int value = values[thread];
  if (thread == 0) total = 0;
  const int warp_sum = WarpSum(value);
  if (thread % 32 == 0) partial[thread / 32] = warp_sum;
  __syncthreads();
  int sum = 0;
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += partial[warp];
  sums[thread] = sum;

  const int reduced = __reduce_add_sync(0xffffffff, value);
  if (thread % 32 == 0) atomicAdd(&total, reduced);
  __syncthreads();
  sums[kThreads + thread] = total;

  // The lower half gives the upper half the values of all, a rotated half at a time.
  constexpr int kHalf = kThreads / 2;
  int collected = 0;
  for (int round = 0; round < kThreads; ++round) {
    if (thread < kHalf) {
      passed[thread] = values[(thread + round) % kThreads];
      ptx::NamedArrive(1, kThreads);
      ptx::NamedSync(2, kThreads);
    } else {
      ptx::NamedSync(1, kThreads);
      collected += passed[thread - kHalf];
      ptx::NamedArrive(2, kThreads);
    }
  }
  if (thread >= kHalf) sums[2 * kThreads + thread] = collected;
  if (thread < kHalf) sums[2 * kThreads + thread] = sum;
  __syncthreads();

#if INGOT_HOPPER
  __shared__ uint64_t barriers[2];
  const uint32_t full = ptx::SharedAddress(&barriers[0]);
  const uint32_t empty = ptx::SharedAddress(&barriers[1]);
  if (thread == 0) {
    ptx::BarrierInit(full, kHalf);
    ptx::BarrierInit(empty, kHalf);
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  collected = 0;
  for (int round = 0; round < kThreads; ++round) {
    if (thread < kHalf) {
      ptx::BarrierWait(empty, (round & 1) ^ 1);
      passed[thread] = values[(thread + round) % kThreads];
      ptx::BarrierArrive(full);
    } else {
      ptx::BarrierWait(full, round & 1);
      collected += passed[thread - kHalf];
      ptx::BarrierArrive(empty);
    }
  }
  sums[3 * kThreads + thread] = thread < kHalf ? sum : collected;
#else
  sums[3 * kThreads + thread] = 0;
#endif
}

}  // namespace

void CheckBarriers(CudaContext& context) {
  CudaContext::Check(Launch(BarriersKernel, dim3(1), dim3(kThreads), 0, context.stream(),
                            Data<const int>(context.Input(0)), Data<int>(context.Output(0))),
                     "check_barriers");
}

}  // namespace ingot
