#include "cuda/matmul/launches.h"

namespace ingot {
namespace {

using Math = device::E4M3Math;

cudaError_t StartMma8(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                      cudaStream_t stream) {
  if (mode == OperandMode::kBlockScales) {
    return StartMmaPath<Math, OperandMode::kBlockScales>(path, slices, p, e, stream);
  }
  return StartMmaPath<Math, OperandMode::kRowsOfK>(path, slices, p, e, stream);
}

cudaError_t StartMatvec8(bool block_scales, const MatmulProblem& p, const Epilogue& e, int multiprocessors,
                         cudaStream_t stream) {
  return block_scales ? StartMatvecOf<Math, true>(p, e, multiprocessors, stream)
                      : StartMatvecOf<Math, false>(p, e, multiprocessors, stream);
}

cudaError_t StartWgmma(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                       int multiprocessors, cudaStream_t stream) {
  if (mode == OperandMode::kBlockScales) {
    return StartWgmmaPath<__nv_fp8_e4m3, OperandMode::kBlockScales>(path, slices, p, e, multiprocessors, stream);
  }
  return StartWgmmaPath<__nv_fp8_e4m3, OperandMode::kRowsOfK>(path, slices, p, e, multiprocessors, stream);
}

}  // namespace

const ProductKernels& E4M3Products() {
  static constexpr ProductKernels kKernels = {1, 2048, 4096, 89, StartMma8, StartMatvec8, StartWgmma};
  return kKernels;
}

}  // namespace ingot
