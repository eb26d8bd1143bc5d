// From a path to the instance of FmaKernel: included where these are made.
#pragma once

#include "cuda/matmul/fma_kernel.h"
#include "cuda/matmul/launches.h"

namespace ingot {

template <OperandMode kMode, typename Shape>
cudaError_t StartFmaTile(const MatmulProblem& problem, int slices, const Epilogue& e, cudaStream_t stream) {
  const MatmulProblem p = Tiled(problem, Shape::kRows, Shape::kColumns, Shape::kDepth, slices);
  const dim3 grid(
      static_cast<unsigned>(p.tiles_m) * static_cast<unsigned>(p.tiles_n) * static_cast<unsigned>(p.matrices),
      static_cast<unsigned>(p.slices));
  return Launch(FmaKernel<Shape, kMode>, grid, dim3(Shape::kThreads), Shape::kShared, stream, p, e);
}

template <OperandMode kMode>
cudaError_t StartFmaPath(ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e, cudaStream_t stream) {
  switch (path) {
    case ProductPath::kFma32x128:
      return StartFmaTile<kMode, FmaTile<32, 128>>(p, slices, e, stream);
    case ProductPath::kMma64x64:
      return StartFmaTile<kMode, FmaTile<64, 64>>(p, slices, e, stream);
    case ProductPath::kMma128x64:
      return StartFmaTile<kMode, FmaTile<128, 64>>(p, slices, e, stream);
    default:
      return StartFmaTile<kMode, FmaTile<128, 128>>(p, slices, e, stream);
  }
}

}  // namespace ingot
