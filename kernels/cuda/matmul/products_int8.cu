#include "cuda/matmul/launches.h"

namespace ingot {
namespace {

cudaError_t StartWgmma(OperandMode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                       int multiprocessors, cudaStream_t stream) {
  return StartWgmmaPath<int8_t, OperandMode::kRowsOfK>(path, slices, p, e, multiprocessors, stream);
}

}  // namespace

const ProductKernels& Int8Products() {
  using Math = device::Int8Math;
  static constexpr ProductKernels kKernels = {1, 2048, 4096, 80, StartMmaRows<Math>, StartMatvec<Math>, StartWgmma};
  return kKernels;
}

}  // namespace ingot
