#include <algorithm>

#include "cuda/elements.h"
#include "cuda/launch.h"
#include "cuda/normalization/normalization.h"
#include "cuda/normalization/rms_rows.h"

namespace ingot {
namespace cuda {
namespace {

constexpr int kBlockThreads = 256;
// Elements of a row that each thread keeps in registers.
constexpr int kKept = 32;

struct Problem {
  Floats x, weight, bias, residual, y, sum;
  int64_t rows, size;
  bool rms, fours;
  float epsilon, offset;
};

// The sum over the threads of a row: a warp, or a block.
template <int kThreads>
__device__ float SumOfRow(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if constexpr (kThreads > 32) {
    __shared__ float sums[kThreads / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < kThreads / 32; ++i) x += sums[i];
  }
  return x;
}

__device__ inline void LoadSome(const Floats& floats, int64_t at, int count, bool fours, float (&to)[4]) {
  if (fours) return LoadFour(floats, at, to);
#pragma unroll
  for (int j = 0; j < 4; ++j) to[j] = j < count ? LoadElement(floats, at + j) : 0;
}

__device__ inline void StoreSome(const Floats& floats, int64_t at, int count, bool fours, const float (&from)[4]) {
  if (fours) return StoreFour(floats, at, from);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < count) StoreElement(floats, at + j, from[j]);
  }
}

__device__ inline void LoadSum(const Problem& p, int64_t at, int count, float (&to)[4]) {
  LoadSome(p.x, at, count, p.fours, to);
  if (p.residual.data == nullptr) return;
  float more[4];
  LoadSome(p.residual, at, count, p.fours, more);
#pragma unroll
  for (int j = 0; j < 4; ++j) to[j] += more[j];
}

__device__ inline int CountFrom(const Problem& p, int64_t column) {
  return p.size - column < 4 ? static_cast<int>(p.size - column) : 4;
}

__device__ inline float SquareDistance(const float (&x)[4], int count, float mean) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) sum += j < count ? (x[j] - mean) * (x[j] - mean) : 0;
  return sum;
}

__device__ inline void Finish(const Problem& p, int64_t row, int64_t column, const float (&x)[4], float mean,
                              float factor) {
  const int count = CountFrom(p, column);
  float y[4], weight[4], bias[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) y[j] = (x[j] - mean) * factor;
  if (p.weight.data != nullptr) {
    LoadSome(p.weight, column, count, p.fours, weight);
#pragma unroll
    for (int j = 0; j < 4; ++j) y[j] *= weight[j] + p.offset;
  }
  if (p.bias.data != nullptr) {
    LoadSome(p.bias, column, count, p.fours, bias);
#pragma unroll
    for (int j = 0; j < 4; ++j) y[j] += bias[j];
  }
  StoreSome(p.y, row * p.size + column, count, p.fours, y);
}

// kThreads for each row, which stays in registers where it fits (kFits), and is read again where not.
template <int kThreads, bool kFits>
__global__ void __launch_bounds__(kBlockThreads) NormalizeRows(const Problem p) {
  constexpr int kGroups = kFits ? kKept / 4 : 1;
  const int64_t row = int64_t{blockIdx.x} * (kBlockThreads / kThreads) + threadIdx.x / kThreads;
  if (kThreads == 32 && row >= p.rows) return;
  const auto first = static_cast<int64_t>(threadIdx.x % kThreads) * 4;
  float kept[kGroups][4] = {};
  float sum = 0;
  if constexpr (kFits) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t column = first + g * 4 * kThreads;
      if (column < p.size) LoadSum(p, row * p.size + column, CountFrom(p, column), kept[g]);
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) sum += kept[g][0] + kept[g][1] + kept[g][2] + kept[g][3];
  } else if (!p.rms) {
    for (int64_t column = first; column < p.size; column += 4 * kThreads) {
      LoadSum(p, row * p.size + column, CountFrom(p, column), kept[0]);
      sum += kept[0][0] + kept[0][1] + kept[0][2] + kept[0][3];
    }
  }
  const float mean = p.rms ? 0 : SumOfRow<kThreads>(sum) / static_cast<float>(p.size);

  float squares = 0;
  if constexpr (kFits) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t column = first + g * 4 * kThreads;
      if (column < p.size) squares += SquareDistance(kept[g], CountFrom(p, column), mean);
    }
  } else {
    for (int64_t column = first; column < p.size; column += 4 * kThreads) {
      LoadSum(p, row * p.size + column, CountFrom(p, column), kept[0]);
      squares += SquareDistance(kept[0], CountFrom(p, column), mean);
    }
  }
  const float factor = 1.0f / sqrtf(SumOfRow<kThreads>(squares) / static_cast<float>(p.size) + p.epsilon);

  if constexpr (kFits) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int64_t column = first + g * 4 * kThreads;
      if (column >= p.size) continue;
      if (p.sum.data != nullptr) StoreSome(p.sum, row * p.size + column, CountFrom(p, column), p.fours, kept[g]);
      Finish(p, row, column, kept[g], mean, factor);
    }
  } else {
    for (int64_t column = first; column < p.size; column += 4 * kThreads) {
      LoadSum(p, row * p.size + column, CountFrom(p, column), kept[0]);
      if (p.sum.data != nullptr) StoreSome(p.sum, row * p.size + column, CountFrom(p, column), p.fours, kept[0]);
      Finish(p, row, column, kept[0], mean, factor);
    }
  }
}

Floats RowOf(const DLTensor* tensor, std::string_view name, int64_t size) {
  if (tensor == nullptr) return {};
  if (tensor->ndim != 1 || tensor->shape[0] != size)
    FailKernel("normalization of rows of ", size, " elements has ", name, " of shape ", ShapeText(*tensor),
               "; it takes [", size, "]");
  return FloatsOf(*tensor, "normalization", name);
}

void Start(Problem& p, CudaContext& context) {
  if (p.rows == 0 || p.size == 0) return;
  p.fours = true;
  for (const Floats& floats : {p.x, p.weight, p.bias, p.residual, p.y, p.sum})
    p.fours = p.fours && (floats.data == nullptr || InFours(floats, p.size));

  const bool narrow = p.size <= 32 * kKept;
  const int64_t blocks = narrow ? (p.rows + kBlockThreads / 32 - 1) / (kBlockThreads / 32) : p.rows;
  if (blocks >= int64_t{1} << 31) FailKernel("normalization of ", p.rows, " rows is more than one launch can have");
  const auto kernel = p.size > kBlockThreads * kKept             ? NormalizeRows<kBlockThreads, false>
                      : narrow && (p.rows >= 8 || p.size <= 256) ? NormalizeRows<32, true>
                                                                 : NormalizeRows<kBlockThreads, true>;
  const bool warps = kernel == NormalizeRows<32, true>;
  CudaContext::Check(
      Launch(kernel, dim3(static_cast<uint32_t>(warps ? blocks : p.rows)), dim3(kBlockThreads), 0, context.stream(), p),
      "normalization");
}

}  // namespace

void NormalizeRms(const RmsRows& rows, CudaContext& context) {
  Problem p{};
  p.x = rows.x;
  p.weight = rows.weight;
  p.y = rows.y;
  p.rows = rows.rows;
  p.size = rows.size;
  p.rms = true;
  p.epsilon = rows.epsilon;
  p.offset = rows.offset;
  Start(p, context);
}

}  // namespace cuda

void Normalize(CudaContext& context) {
  using namespace cuda;
  const DLTensor& x = context.Input(0);
  if (x.ndim == 0) FailKernel("normalization takes rows, not a single number");
  const auto shape = ShapeOf(x);
  Problem p{};
  p.size = shape.back();
  p.rows = ElementCount(shape.first(shape.size() - 1));
  const int64_t kind = context.ints()[0];
  if (kind != 0 && kind != 1) FailKernel("normalization has no kind ", kind, "; 0 is layer, 1 RMS normalization");
  p.rms = kind == 1;
  p.epsilon = static_cast<float>(context.floats()[0]);
  p.offset = static_cast<float>(context.floats()[1]);
  p.x = FloatsOf(x, "normalization", "X");
  p.weight = RowOf(context.OptionalInput(1), "weight", p.size);
  p.bias = RowOf(context.OptionalInput(2), "bias", p.size);
  if (const DLTensor* residual = context.OptionalInput(3)) {
    if (!std::ranges::equal(ShapeOf(*residual), shape))
      FailKernel("normalization of ", ShapeText(x), " with a residual of ", ShapeText(*residual),
                 " does not fit together");
    p.residual = FloatsOf(*residual, "normalization", "a residual");
  }
  p.y = FloatsOf(context.AllocateOutput(0, shape), "normalization", "Y");
  if (context.output_count() > 1) p.sum = FloatsOf(context.AllocateOutput(1, shape), "normalization", "a sum");
  Start(p, context);
}

}  // namespace ingot
