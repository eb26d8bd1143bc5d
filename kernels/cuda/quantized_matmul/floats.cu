// Products in float32, and X in the types that tensor cores take.
#include <algorithm>

#include "cuda/quantized_matmul/epilogue.h"

namespace ingot::cuda::quantized_matmul {
namespace {

// A block computes kRows rows by kColumns columns: it makes floats of 64 k of both at a time in shared memory, and each
// thread adds up 4 x 4 sums.
constexpr int kRows = 32, kColumns = 64, kThreads = 128;
constexpr int kMostBlocks = 65535;  // of a grid's y

// The number of code `code`.
INGOT_PTX float NumberOf(const Problem& p, uint32_t code) {
  switch (p.codes) {
    case Codes::kBytes:
      return static_cast<float>(static_cast<int>(code) - 128);
    case Codes::kNibbles:
      return static_cast<float>(static_cast<int>(code) - 8);
    default:
      return p.table_floats[code];
  }
}

// Code (row, k) of a step of a panel, as quantized_matmul.h lays it out.
INGOT_PTX uint32_t CodeAt(const Problem& p, const uint8_t* step, int row, int k) {
  const int lane = row % 8 * 4 + k % 8 / 2;
  const int matrix = k / 16, upper_k = k / 8 % 2, upper_row = row / 8, element = k % 2;
  if (p.codes == Codes::kBytes)
    return step[matrix / 2 * 512 + lane * 16 + matrix % 2 * 8 + upper_k * 4 + upper_row + 2 * element];
  const int nibble =
      p.codes == Codes::kNibbles ? 4 * element + 2 * upper_k + upper_row : 4 * upper_k + 2 * upper_row + element;
  return uint32_t{step[lane * 16 + matrix * 4 + nibble / 2]} >> (nibble % 2 * 4) & 15;
}

__global__ void __launch_bounds__(kThreads) Floats(const Problem p) {
  __shared__ float w[kStep][kColumns + 1];
  __shared__ float x[kStep][kRows + 1];
  const int thread = static_cast<int>(threadIdx.x);
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  const int step_bytes = p.codes == Codes::kBytes ? kPanel * kStep : kPanel * kStep / 2;
  const int column_of_thread = thread % 16, row_of_thread = thread / 16;
  for (int first_row = static_cast<int>(blockIdx.y) * kRows; first_row < p.rows;
       first_row += static_cast<int>(gridDim.y) * kRows) {
    float sums[4][4] = {};
    for (int step = 0; step < p.steps; ++step) {
      for (int i = thread; i < kColumns * kStep; i += kThreads) {
        const int column = i / kStep, k = i % kStep;
        const int panel = min((first_column + column) / kPanel, p.panels - 1);
        const int group = min((step * kStep + k) >> p.group_shift, p.groups - 1);
        const int64_t at = (static_cast<int64_t>(panel) * p.groups + group) * kPanel + column % kPanel;
        float number = NumberOf(
            p, CodeAt(p, p.weights + (static_cast<int64_t>(panel) * p.steps + step) * step_bytes, column % kPanel, k));
        if (p.zeros != nullptr) number -= ReadNumber(p.zeros, p.zero_type, at);
        w[k][column] = number * ReadNumber(p.scales, p.scale_type, at);
      }
      for (int i = thread; i < kRows * kStep; i += kThreads) {
        const int row = first_row + i / kStep, k = step * kStep + i % kStep;
        x[i % kStep][i / kStep] = row < p.rows && k < p.depth
                                      ? ReadNumber(static_cast<const uint8_t*>(p.x), p.x_type, row * p.x_stride + k)
                                      : 0;
      }
      __syncthreads();
      const int most =
          min(kStep, p.depth - step * kStep);  // not to multiply zeros by padding, whose scales may be infinite
      for (int k = 0; k < most; ++k) {
        float a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = x[k][row_of_thread + 8 * i];
          b[i] = w[k][column_of_thread + 16 * i];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = first_row + row_of_thread + 8 * i, column = first_column + column_of_thread + 16 * j;
        const float other = p.gated ? __shfl_xor_sync(0xffffffffu, sums[i][j], kEight) : 0.0f;
        if (row < p.rows && column < p.columns)
          Finish(p, row, column, [&](int further) { return further == 0 ? sums[i][j] : other; });
      }
    }
  }
}

__global__ void __launch_bounds__(256) Prepare(const Problem p, Element to_type, uint16_t* to, int64_t stride) {
  const int64_t count = p.rows * stride;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * 256) {
    const int64_t row = i / stride, k = i % stride;
    const float value = k < p.depth ? ReadNumber(static_cast<const uint8_t*>(p.x), p.x_type, row * p.x_stride + k) : 0;
    to[i] = to_type == Element::kHalf ? __half_as_ushort(__float2half_rn(value))
                                      : __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
}

}  // namespace

void LaunchFloats(CudaContext& context, const Problem& problem) {
  const dim3 grid(static_cast<unsigned>(CeilDivide(problem.columns, kColumns)),
                  static_cast<unsigned>(std::min<int64_t>(CeilDivide(problem.rows, kRows), kMostBlocks)));
  CudaContext::Check(Launch(Floats, grid, dim3(kThreads), 0, context.stream(), problem), "quantized_matmul in float32");
}

void LaunchPrepare(CudaContext& context, const Problem& problem, Element to_type, void* to, int64_t stride) {
  const int64_t blocks =
      std::min<int64_t>(CeilDivide(problem.rows * stride, 256), int64_t{16} * std::max(context.multiprocessors(), 1));
  CudaContext::Check(Launch(Prepare, dim3(static_cast<unsigned>(blocks)), dim3(256), 0, context.stream(), problem,
                            to_type, static_cast<uint16_t*>(to), stride),
                     "quantized_matmul: X in 16 bits");
}

}  // namespace ingot::cuda::quantized_matmul
