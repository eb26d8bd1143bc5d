// From a path to the kernel's instance: included where instances of a type are made.
#pragma once

#include <algorithm>

#include "cuda/matmul/matvec_kernel.h"
#include "cuda/matmul/mma_kernel.h"
#include "cuda/matmul/products.h"
#include "cuda/matmul/wgmma_kernel.h"
#include "cuda/tensor_map.h"

namespace ingot {

inline int DivideUp(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Tells the problem about tiles of rows x columns and about slices of steps of `depth` numbers.
inline MatmulProblem Tiled(MatmulProblem p, int rows, int columns, int depth, int slices) {
  p.tiles_m = DivideUp(p.m, rows);
  p.tiles_n = DivideUp(p.n, columns);
  const int steps = DivideUp(p.k, depth);
  p.slice_steps = std::max(DivideUp(steps, slices), 1);
  p.slices = std::max(DivideUp(steps, p.slice_steps), 1);
  return p;
}

// Stages of 64 bytes of K let two blocks of large tiles share a multiprocessor; scales of blocks want 128 bytes.
using MmaTile128x128 = MmaTile<128, 128, 2, 2, 64, 4>;
using MmaTile128x64 = MmaTile<128, 64, 2, 2, 64, 4>;
using MmaTile64x64 = MmaTile<64, 64, 2, 2, 128, 4>;
using MmaTile128x64Blocks = MmaTile<128, 64, 4, 1, 128, 3>;

template <typename Math, typename Shape, OperandMode kMode>
cudaError_t StartMmaTile(const MatmulProblem& problem, int slices, const Epilogue& e, cudaStream_t stream) {
  const MatmulProblem p = Tiled(problem, Shape::kRows, Shape::kColumns, Shape::kRowBytes / Math::kBytes, slices);
  const dim3 grid(
      static_cast<unsigned>(p.tiles_m) * static_cast<unsigned>(p.tiles_n) * static_cast<unsigned>(p.matrices),
      static_cast<unsigned>(p.slices));
  return Launch(MmaKernel<Math, Shape, kMode>, grid, dim3(Shape::kThreads), Shape::kShared, stream, p, e);
}

template <typename Math, OperandMode kMode>
cudaError_t StartMmaPath(ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e, cudaStream_t stream) {
  if constexpr (kMode == OperandMode::kBlockScales) {
    if (path == ProductPath::kMma64x64) return StartMmaTile<Math, MmaTile64x64, kMode>(p, slices, e, stream);
    return StartMmaTile<Math, MmaTile128x64Blocks, kMode>(p, slices, e, stream);
  } else {
    if (path == ProductPath::kMma64x64) return StartMmaTile<Math, MmaTile64x64, kMode>(p, slices, e, stream);
    if (path == ProductPath::kMma128x64) return StartMmaTile<Math, MmaTile128x64, kMode>(p, slices, e, stream);
    return StartMmaTile<Math, MmaTile128x128, kMode>(p, slices, e, stream);
  }
}

template <typename Math, bool kBlockScales>
cudaError_t StartMatvecOf(const MatmulProblem& problem, const Epilogue& e, int multiprocessors, cudaStream_t stream) {
  MatmulProblem p = problem;
  p.tiles_n = DivideUp(p.n, kMatvecColumns);
  const int64_t units = static_cast<int64_t>(p.tiles_n) * p.matrices;
  // Few blocks have more warps each, so that enough bytes are under way. Two of those of 8 warps run at one time.
  const int warps = units <= multiprocessors ? kMatvecMostWarps : kMatvecMostWarps / 2;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(units, int64_t{2} * multiprocessors)));
  const dim3 block(static_cast<unsigned>(32 * warps));
  const auto launch = [&](auto kernel, int fragments) {
    const size_t shared = sizeof(float) * static_cast<size_t>(MatvecShared(warps, fragments));
    return LaunchWith(true, kernel, grid, block, shared, stream, p, e);
  };
  if (p.m <= 8) return launch(MatvecKernel<Math, 1, kBlockScales>, 1);
  if (p.m <= 16) return launch(MatvecKernel<Math, 2, kBlockScales>, 2);
  return launch(MatvecKernel<Math, 4, kBlockScales>, 4);
}

// How many matrices an operand has, that products go through with these steps.
inline int64_t MatrixCount(const BatchSteps& batch, const int (&steps)[BatchSteps::kDigits]) {
  int64_t count = 1;
  for (int i = 0; i < BatchSteps::kDigits; ++i) count += static_cast<int64_t>(batch.extents[i] - 1) * steps[i];
  return count;
}

template <typename Type>
constexpr CUtensorMapDataType MapType() {
  if (std::is_same_v<Type, __half>) return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return std::is_same_v<Type, __nv_bfloat16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

template <typename Shape>
cudaError_t StartWgmmaTile(const MatmulProblem& problem, int slices, const Epilogue& e, int multiprocessors,
                           cudaStream_t stream) {
  constexpr bool kRowsOfN = Shape::kMode == OperandMode::kRowsOfN;
  const MatmulProblem p = Tiled(problem, Shape::kRows, Shape::kColumns, Shape::kDepth, slices);
  const auto map = [](const void* data, int64_t columns, int64_t rows, int64_t pitch, int64_t matrices, int64_t matrix,
                      int box_columns, int box_rows) {
    const uint64_t extents[3] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(rows),
                                 static_cast<uint64_t>(matrices)};
    const uint64_t strides[2] = {static_cast<uint64_t>(pitch), static_cast<uint64_t>(matrix)};
    const uint32_t box[3] = {static_cast<uint32_t>(box_columns), static_cast<uint32_t>(box_rows), 1};
    return MakeTensorMap(MapType<typename Shape::Type>(), data, extents, strides, box, ptx::Swizzle::k128);
  };
  const int64_t x_count = MatrixCount(p.batch, p.batch.x);
  const int64_t w_count = MatrixCount(p.batch, p.batch.w);
  const CUtensorMap x_map = map(p.x, p.k, p.m, p.x_pitch, x_count, p.x_matrix, Shape::kDepth, Shape::kRows);
  const CUtensorMap w_map = kRowsOfN
                                ? map(p.w, p.w_pitch / 2, p.w_depth, p.w_pitch, w_count, p.w_matrix, 64, Shape::kDepth)
                                : map(p.w, p.k, p.n, p.w_pitch, w_count, p.w_matrix, Shape::kDepth, Shape::kColumns);
  const int units = p.tiles_m * p.tiles_n * p.matrices * p.slices;
  const dim3 grid(static_cast<unsigned>(std::min(units, multiprocessors * Shape::kBlocks)));
  return LaunchWith(true, WgmmaKernel<Shape>, grid, dim3(Shape::kThreads), Shape::kShared, stream, x_map, w_map, p, e);
}

template <typename Type, OperandMode kMode>
cudaError_t StartWgmmaPath(ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e, int multiprocessors,
                           cudaStream_t stream) {
  if (path == ProductPath::kWgmma64x128) {
    return StartWgmmaTile<WgmmaTile<Type, kMode, 1, 128, 4>>(p, slices, e, multiprocessors, stream);
  }
  if constexpr (kMode != OperandMode::kBlockScales) {
    if (path == ProductPath::kWgmma128x256) {
      return StartWgmmaTile<WgmmaTile<Type, kMode, 2, 256, 4>>(p, slices, e, multiprocessors, stream);
    }
  }
  return StartWgmmaTile<WgmmaTile<Type, kMode, 2, 128, 6>>(p, slices, e, multiprocessors, stream);
}

// ProductKernels' functions for 16-bit types.
template <typename Math>
cudaError_t StartMma16(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                       cudaStream_t stream) {
  if (mode == OperandMode::kRowsOfN) return StartMmaPath<Math, OperandMode::kRowsOfN>(path, slices, p, e, stream);
  return StartMmaPath<Math, OperandMode::kRowsOfK>(path, slices, p, e, stream);
}
template <typename Math>
cudaError_t StartMatvec(bool, const MatmulProblem& p, const Epilogue& e, int multiprocessors, cudaStream_t stream) {
  return StartMatvecOf<Math, false>(p, e, multiprocessors, stream);
}
template <typename Math>
cudaError_t StartWgmma16(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                         int multiprocessors, cudaStream_t stream) {
  using Type = typename Math::Element;
  if (mode == OperandMode::kRowsOfN) {
    return StartWgmmaPath<Type, OperandMode::kRowsOfN>(path, slices, p, e, multiprocessors, stream);
  }
  return StartWgmmaPath<Type, OperandMode::kRowsOfK>(path, slices, p, e, multiprocessors, stream);
}

// Without scales of blocks, and for W as rows of K.
template <typename Math>
cudaError_t StartMmaRows(OperandMode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                         cudaStream_t stream) {
  return StartMmaPath<Math, OperandMode::kRowsOfK>(path, slices, p, e, stream);
}

}  // namespace ingot
