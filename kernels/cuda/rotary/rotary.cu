#include <algorithm>

#include "cuda/launch.h"
#include "cuda/rotary/angles.h"
#include "cuda/rotary/rotary.h"

namespace ingot {
namespace cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMostSize = 512;  // of a head: what a warp keeps in registers, so that Y can be X

// A warp for each head of each token.
__global__ void __launch_bounds__(32 * kWarps) RotateHeads(Floats x, Floats y, Angles angles, int64_t heads,
                                                           int64_t steps, int64_t rows, int32_t size, bool head_first) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const int64_t outer = row / (heads * steps);
  const int64_t step = head_first ? row % steps : row / heads % steps;
  float kept[kMostSize / 32];
#pragma unroll
  for (int i = 0; i < kMostSize / 32; ++i) {
    if (i * 32 + lane < size) kept[i] = RotatedElement(angles, x, row * size, i * 32 + lane, outer, step);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kMostSize / 32; ++i) {
    if (i * 32 + lane < size) StoreElement(y, row * size + i * 32 + lane, kept[i]);
  }
}

}  // namespace
}  // namespace cuda

void Rotary(CudaContext& context) {
  using namespace cuda;
  const DLTensor& x = context.Input(0);
  const auto ints = context.ints();
  if (x.ndim != 4) FailKernel("rotary takes X with 4 axes, not ", ShapeText(x));
  if (ints[0] != 0 && ints[0] != 1) FailKernel("X has no layout ", ints[0], "; 0 is BSHD, 1 BHSD");
  const bool head_first = ints[0] == 1;
  const int64_t steps = x.shape[head_first ? 2 : 1];
  const int64_t heads = x.shape[head_first ? 1 : 2];
  const int64_t size = x.shape[3];
  if (size > kMostSize) FailKernel("rotary takes heads of at most ", kMostSize, " elements, not ", size);
  const Angles angles =
      ReadAngles(&context.Input(1), &context.Input(2), x.shape[0], steps, size, ints[2], ints[1] != 0, "rotary");
  const Floats from = FloatsOf(x, "rotary", "X");
  const Floats to = FloatsOf(context.AllocateOutput(0, ShapeOf(x)), "rotary", "Y");
  const int64_t rows = x.shape[0] * steps * heads;
  if (rows == 0 || size == 0) return;
  const int64_t blocks = (rows + kWarps - 1) / kWarps;
  if (blocks >= int64_t{1} << 31) FailKernel("rotary of ", rows, " heads is more than one launch can have");
  CudaContext::Check(Launch(RotateHeads, dim3(static_cast<uint32_t>(blocks)), dim3(32 * kWarps), 0, context.stream(),
                            from, to, angles, heads, steps, rows, static_cast<int32_t>(size), head_first),
                     "rotary");
}

}  // namespace ingot
