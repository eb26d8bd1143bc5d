#include <algorithm>

#include "cuda/convolution/depthwise.h"

namespace ingot {
namespace {

constexpr int kThreads = 256;
constexpr int kMostEights = 32;             // groups of eight channels that a block takes
constexpr int kPixels = 4;                  // neighbours in a row of Y that a thread computes
constexpr int64_t kWeightBytes = 48 << 10;  // of shared memory

int64_t EightBytes(const DepthwiseProblem& p) { return int64_t{4} * kEight * p.kernel_height * p.steps.kernel_width; }

__device__ __forceinline__ void LoadChannels(float (&v)[kEight], const DepthwiseProblem& p, int64_t pixel, int channel,
                                             int count) {
  const int64_t at = pixel * p.channels + channel;
  if (p.vectors && count == kEight) {
    device::LoadEight(v, p.x, p.number, at);
    return;
  }
#pragma unroll
  for (int i = 0; i < kEight; ++i) v[i] = i < count ? device::LoadNumber(p.x, p.number, at + i) : 0.0f;
}

// Grid: groups of pixels, blocks of channels. Consecutive threads have consecutive eights of channels.
__global__ void __launch_bounds__(kThreads, 2)
    DepthwiseKernel(const __grid_constant__ DepthwiseProblem p, const __grid_constant__ Epilogue e, int eights) {
  INGOT_DYNAMIC_SHARED(float, weights);  // [positions, eights * 8]
  const ConvolutionSteps& c = p.steps;
  const int positions = p.kernel_height * c.kernel_width;
  const int first_channel = static_cast<int>(blockIdx.y) * eights * kEight;
  for (int i = static_cast<int>(threadIdx.x); i < positions * eights * kEight; i += kThreads) {
    const int position = i / (eights * kEight);
    const int channel = first_channel + i - position * eights * kEight;
    weights[i] = channel < p.channels
                     ? device::LoadNumber(p.w, p.number, static_cast<int64_t>(channel) * positions + position)
                     : 0.0f;
  }
  __syncthreads();

  const int columns = (c.out_width + kPixels - 1) / kPixels;  // groups of pixels in a row of Y
  const int64_t groups = static_cast<int64_t>(p.images) * c.out_height * columns;
  const int eight = static_cast<int>(threadIdx.x) % eights;
  const int channel = first_channel + eight * kEight;
  const int lanes = kThreads / eights;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * lanes + threadIdx.x / eights;
  if (static_cast<int>(threadIdx.x) / eights >= lanes || group >= groups || channel >= p.channels) return;
  const int count = p.channels - channel < kEight ? p.channels - channel : kEight;
  const int64_t line = group / columns;
  const int out_x = static_cast<int>(group - line * columns) * kPixels;
  const int64_t image = line / c.out_height;
  const int out_y = static_cast<int>(line - image * c.out_height);

  float sums[kPixels][kEight] = {};
  for (int ky = 0; ky < p.kernel_height; ++ky) {
    const int y = out_y * c.stride_h - c.top + ky * c.dilation_h;
    if (y < 0 || y >= c.height) continue;
    const int64_t row = (image * c.height + y) * c.width;
    for (int kx = 0; kx < c.kernel_width; ++kx) {
      float w[kEight];
      device::LoadEight(w, weights, Number::kFloat32, ((ky * c.kernel_width + kx) * eights + eight) * kEight);
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        const int x = (out_x + i) * c.stride_w - c.left + kx * c.dilation_w;
        if (x < 0 || x >= c.width) continue;
        float v[kEight];
        LoadChannels(v, p, row + x, channel, count);
#pragma unroll
        for (int j = 0; j < kEight; ++j) sums[i][j] += v[j] * w[j];
      }
    }
  }
#pragma unroll 1
  for (int i = 0; i < kPixels; ++i) {
    if (out_x + i >= c.out_width) break;
    float v[kEight];
#pragma unroll
    for (int j = 0; j < kEight; ++j)
      v[j] = i == 0 ? sums[0][j] : i == 1 ? sums[1][j] : i == 2 ? sums[2][j] : sums[3][j];
    device::StoreEight(e, 0, static_cast<int>(line * c.out_width + out_x + i), channel, v);
  }
}

}  // namespace

bool CanRunDepthwise(const DepthwiseProblem& p) { return EightBytes(p) <= kWeightBytes; }

cudaError_t RunDepthwise(const DepthwiseProblem& p, const Epilogue& e, cudaStream_t stream) {
  const int64_t fit = kWeightBytes / EightBytes(p);
  const int eights = static_cast<int>(std::min<int64_t>({kMostEights, (p.channels + kEight - 1) / kEight, fit}));
  const int columns = (p.steps.out_width + kPixels - 1) / kPixels;
  const int64_t groups = static_cast<int64_t>(p.images) * p.steps.out_height * columns;
  const int lanes = kThreads / eights;
  const dim3 grid(static_cast<unsigned>((groups + lanes - 1) / lanes),
                  static_cast<unsigned>((p.channels + eights * kEight - 1) / (eights * kEight)));
  return Launch(DepthwiseKernel, grid, dim3(kThreads), static_cast<size_t>(EightBytes(p) * eights), stream, p, e,
                eights);
}

}  // namespace ingot
