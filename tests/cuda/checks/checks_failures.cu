#include "checks.h"
#include "cuda/ptx.h"

namespace ingot {
namespace {

constexpr int kThreads = 64;
constexpr int kCount = 1024;

// What a kernel can do wrong. On a GPU some of these have no defined result; only 0 is run there.
enum Wrong {
  kNothing,
  kNoCopyWait,        // reads what cp.async has not brought yet
  kMissingThread,     // one thread does not come to __syncthreads, but waits elsewhere
  kBarrierForever,    // an mbarrier that lacks an arrival
  kDivergentWarp,     // lanes of a warp in different instructions
  kOutside,           // ldmatrix beyond dynamic shared memory
  kMisaligned,        // cp.async to an address that is not aligned
  kNoBarrierInit,     // an mbarrier that nobody has initialized
  kNoProductWait,     // wgmma that nobody waits for
  kWriteBehind,       // writes one float behind dynamic shared memory
  kIndex,             // an index outside of an array in registers
  kMisalignedVector,  // float4 at an address that is a multiple of 4
  kUninitialized,     // reads shared memory that nobody has written
};

__global__ void __launch_bounds__(kThreads) FailuresKernel(const float* source, float* target, int wrong) {
  INGOT_DYNAMIC_SHARED(float, shared);
  __shared__ uint64_t barrier;
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t address = ptx::SharedAddress(shared);
  if (wrong == kMissingThread && thread == 40) ptx::NamedSync(3, 64);
  if (wrong == kDivergentWarp) {
    if (thread == 0) {
      __syncwarp();
    } else {
      __shfl_sync(0xffffffff, thread, 0);
    }
  }
  for (int i = 4 * thread; i < kCount; i += 4 * kThreads) {
    if (wrong == kMisaligned && i == 16) {
      ptx::CopyAsync<16>(address + 4 * i + 4, source + i);
    } else if (wrong != kUninitialized) {
      ptx::CopyAsync<16>(address + 4 * i, source + i);
    }
  }
  ptx::CopyAsyncCommit();
  if (wrong != kNoCopyWait) ptx::CopyAsyncWait<0>();
  __syncthreads();
  if (wrong == kOutside) {
    uint32_t r[4];
    ptx::LoadMatrix4(r[0], r[1], r[2], r[3], address + kCount * 4 - 16 * 16 + thread % 32 * 16);
  }
  if (wrong == kWriteBehind && thread == 0) shared[kCount] = 1;
  if (wrong == kNoBarrierInit) ptx::BarrierArrive(ptx::SharedAddress(&barrier));
#if INGOT_HOPPER
  if (wrong == kBarrierForever) {
    if (thread == 0) ptx::BarrierInit(ptx::SharedAddress(&barrier), 2);
    __syncthreads();
    if (thread == 0) ptx::BarrierArrive(ptx::SharedAddress(&barrier));
    ptx::BarrierWait(ptx::SharedAddress(&barrier), 0);
  }
  if (wrong == kNoProductWait) {
    float sums[4] = {};
    ptx::WgmmaFence();
    const uint64_t descriptor = ptx::MatrixDescriptor(address, 16, 1024, ptx::Swizzle::k128);
    ptx::Wgmma<__nv_bfloat16, 8>(sums, descriptor, descriptor, 1);
    ptx::WgmmaCommit();
  }
#endif
  if (wrong == kIndex) {
    float values[4] = {1, 2, 3, 4};
    target[thread] = values[thread % 5 + static_cast<int>(source[0] * 0)];
  }
  if (wrong == kMisalignedVector) *reinterpret_cast<float4*>(target + 1) = make_float4(1, 2, 3, 4);
  for (int i = thread; i < kCount; i += kThreads) target[i] = shared[kCount - 1 - i];
}

}  // namespace

void CheckFailures(CudaContext& context) {
  CudaContext::Check(
      Launch(FailuresKernel, dim3(2), dim3(kThreads), kCount * sizeof(float), context.stream(),
             Data<const float>(context.Input(0)), Data<float>(context.Output(0)), static_cast<int>(context.ints()[0])),
      "check_failures");
}

}  // namespace ingot
