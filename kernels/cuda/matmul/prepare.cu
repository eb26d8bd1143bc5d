#include <algorithm>

#include "cuda/matmul/checks.h"
#include "cuda/matmul/prepare.h"

namespace ingot {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1 << 20;  // threads go on to further elements

dim3 BlocksFor(int64_t count) {
  return dim3(static_cast<unsigned>(std::min<int64_t>((count + kThreads - 1) / kThreads, kMostBlocks)));
}

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    PadRowsKernel(const Element* from, Element* to, int64_t rows, int64_t columns, int64_t pitch) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < rows * pitch; i += step) {
    const int64_t row = i / pitch;
    const int64_t column = i - row * pitch;
    to[i] = column < columns ? from[row * columns + column] : Element{0};
  }
}

constexpr int kTransposeTile = 32;

// Grid: tiles of columns, tiles of rows, matrices.
__global__ void __launch_bounds__(kTransposeTile * 8)
    TransposeKernel(const float* from, float* to, int64_t matrices, int rows, int columns, int pitch) {
  __shared__ float tile[kTransposeTile][kTransposeTile + 1];
  const int x = static_cast<int>(threadIdx.x) % kTransposeTile;
  const int y = static_cast<int>(threadIdx.x) / kTransposeTile;
  const int column = static_cast<int>(blockIdx.x) * kTransposeTile;
  for (int64_t matrix = blockIdx.z; matrix < matrices; matrix += gridDim.z) {
    for (int row = static_cast<int>(blockIdx.y) * kTransposeTile; row < pitch;
         row += static_cast<int>(gridDim.y) * kTransposeTile) {
      for (int i = y; i < kTransposeTile; i += 8) {
        const bool inside = row + i < rows && column + x < columns;
        tile[i][x] = inside ? from[(matrix * rows + row + i) * columns + column + x] : 0.0f;
      }
      __syncthreads();
      for (int i = y; i < kTransposeTile; i += 8) {
        if (column + i < columns && row + x < pitch) to[(matrix * columns + column + i) * pitch + row + x] = tile[x][i];
      }
      __syncthreads();
    }
  }
}

// Partial sums of integers are bits of int32.
template <SumKind kSums>
__global__ void __launch_bounds__(kThreads)
    AddSlicesKernel(const float* partial, int slices, int matrices, int pitch, const __grid_constant__ Epilogue e) {
  const int eights = (e.columns + kEight - 1) / kEight;
  const int64_t count = static_cast<int64_t>(matrices) * e.rows * eights;
  const int64_t slice = static_cast<int64_t>(matrices) * e.rows * pitch;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  ptx::GridLaunchDependents();
  ptx::GridDependencyWait();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    const int64_t row = i / eights;
    const int column = static_cast<int>(i - row * eights) * kEight;
    float sums[kEight] = {};
    for (int j = 0; j < slices; ++j) {
      float v[kEight];
      device::LoadEight(v, partial, Number::kFloat32, j * slice + row * pitch + column);
#pragma unroll
      for (int c = 0; c < kEight; ++c) {
        sums[c] = kSums == SumKind::kIntegers ? __int_as_float(__float_as_int(sums[c]) + __float_as_int(v[c]))
                                              : sums[c] + v[c];
      }
    }
    const int64_t matrix = row / e.rows;
    device::StoreEight<kSums>(e, static_cast<int>(matrix), static_cast<int>(row - matrix * e.rows), column, sums);
  }
}

}  // namespace

const void* PaddedRows(CudaContext& context, std::string_view kernel, const DLTensor& tensor, int element_bytes,
                       int64_t columns, int64_t pitch) {
  const void* const data = Data<const void>(tensor);
  if (columns == pitch && IsAligned(data)) return data;
  const int64_t rows = columns == 0 ? 0 : ElementCount(tensor) / columns;
  void* const copy = context.DeviceScratch(static_cast<size_t>(rows * pitch * element_bytes));
  CudaContext::Check(PadRows(data, copy, element_bytes, 1, rows, columns, pitch, context.stream()), kernel);
  return copy;
}

MatmulProblem ByteLayer(std::string_view kernel, const DLTensor& x, const DLTensor& w, const DLTensor& y) {
  if (x.ndim < 1 || w.ndim != 2 || y.ndim != x.ndim || w.shape[1] != x.shape[x.ndim - 1] ||
      y.shape[y.ndim - 1] != w.shape[0] || !std::equal(x.shape, x.shape + x.ndim - 1, y.shape)) {
    FailKernel(kernel, " of X ", ShapeText(x), " and W ", ShapeText(w), " does not give Y ", ShapeText(y),
               "; it takes [..., K] and [N, K], and gives [..., N]");
  }
  MatmulProblem p;
  p.n = CheckedInt(kernel, "N", w.shape[0]);
  p.m = CheckedInt(kernel, "the number of X's rows", ElementCount(ShapeOf(x).first(static_cast<size_t>(x.ndim) - 1)));
  p.k = CheckedInt(kernel, "K", (w.shape[1] + 15) / 16 * 16);
  p.w_depth = p.k;
  return p;
}

void ReadByteLayer(CudaContext& context, std::string_view kernel, const DLTensor& x, const DLTensor& w,
                   MatmulProblem& p) {
  p.x_pitch = p.w_pitch = p.k;
  p.x_matrix = p.x_pitch * p.m;
  p.w_matrix = p.w_pitch * p.n;
  p.x = PaddedRows(context, kernel, x, 1, w.shape[1], p.x_pitch);
  p.w = PaddedRows(context, kernel, w, 1, w.shape[1], p.w_pitch);
}

cudaError_t PadRows(const void* from, void* to, int element_bytes, int64_t matrices, int64_t rows, int64_t columns,
                    int64_t pitch, cudaStream_t stream) {
  const dim3 grid = BlocksFor(matrices * rows * pitch);
  const int64_t all = matrices * rows;
  if (element_bytes == 1) {
    return Launch(PadRowsKernel<uint8_t>, grid, dim3(kThreads), 0, stream, static_cast<const uint8_t*>(from),
                  static_cast<uint8_t*>(to), all, columns, pitch);
  }
  if (element_bytes == 2) {
    return Launch(PadRowsKernel<uint16_t>, grid, dim3(kThreads), 0, stream, static_cast<const uint16_t*>(from),
                  static_cast<uint16_t*>(to), all, columns, pitch);
  }
  return Launch(PadRowsKernel<uint32_t>, grid, dim3(kThreads), 0, stream, static_cast<const uint32_t*>(from),
                static_cast<uint32_t*>(to), all, columns, pitch);
}

cudaError_t TransposeFloats(const float* from, float* to, int64_t matrices, int rows, int columns, int pitch,
                            cudaStream_t stream) {
  const auto tiles = [](int count) { return static_cast<unsigned>((count + kTransposeTile - 1) / kTransposeTile); };
  const dim3 grid(tiles(columns), std::min(tiles(pitch), 65535u),
                  static_cast<unsigned>(std::min<int64_t>(matrices, 65535)));
  return Launch(TransposeKernel, grid, dim3(kTransposeTile * 8), 0, stream, from, to, matrices, rows, columns, pitch);
}

cudaError_t AddSlices(const float* partial, int slices, int matrices, int pitch, const Epilogue& e,
                      cudaStream_t stream) {
  const int64_t eights = (e.columns + kEight - 1) / kEight;
  const auto launch = [&](auto kernel) {
    return LaunchWith(true, kernel, BlocksFor(matrices * e.rows * eights), dim3(kThreads), 0, stream, partial, slices,
                      matrices, pitch, e);
  };
  if (e.integers) return launch(AddSlicesKernel<SumKind::kIntegers>);
  return launch(AddSlicesKernel<SumKind::kNarrowFloats>);
}

Epilogue PartialSums(float* partial, int rows, int pitch) {
  Epilogue e;
  e.y = partial;
  e.pitch = pitch;
  e.matrix = static_cast<int64_t>(rows) * pitch;
  e.rows = rows;
  e.columns = pitch;
  e.vectors = true;
  e.plain = true;
  return e;
}

}  // namespace ingot
