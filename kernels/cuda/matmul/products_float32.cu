#include "cuda/matmul/fma_launches.h"
#include "cuda/matmul/fma_matvec_kernel.h"

namespace ingot {
namespace {

cudaError_t StartFma(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                     cudaStream_t stream) {
  if (mode == OperandMode::kRowsOfN) return StartFmaPath<OperandMode::kRowsOfN>(path, slices, p, e, stream);
  return StartFmaPath<OperandMode::kRowsOfK>(path, slices, p, e, stream);
}

cudaError_t StartFmaMatvec(bool, const MatmulProblem& problem, const Epilogue& e, int multiprocessors,
                           cudaStream_t stream) {
  MatmulProblem p = problem;
  p.tiles_n = DivideUp(p.n, kEight);
  const int64_t units = static_cast<int64_t>(p.tiles_n) * p.matrices;
  // Few blocks have more warps each, so that enough bytes are under way.
  const int warps = units <= multiprocessors ? 16 : 8;
  const dim3 grid(static_cast<unsigned>(units));
  const auto launch = [&](auto kernel, int sums) {
    const size_t shared = sizeof(float) * static_cast<size_t>(warps * sums);
    return LaunchWith(true, kernel, grid, dim3(static_cast<unsigned>(32 * warps)), shared, stream, p, e);
  };
  if (p.m == 1) return launch(FmaMatvecKernel<1, 8>, 8);
  if (p.m == 2) return launch(FmaMatvecKernel<2, 8>, 16);
  if (p.m <= 4) return launch(FmaMatvecKernel<4, 4>, 16);
  return launch(FmaMatvecKernel<8, 4>, 32);
}

}  // namespace

const ProductKernels& Float32Products() {
  static constexpr ProductKernels kKernels = {4, 128, 0, 80, StartFma, StartFmaMatvec, nullptr, kFmaMatvecRows, true};
  return kKernels;
}

}  // namespace ingot
