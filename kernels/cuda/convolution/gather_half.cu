#include "cuda/convolution/gather.h"
#include "cuda/matmul/launches.h"

namespace ingot {

cudaError_t StartConvolutionHalf(OperandMode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                                 cudaStream_t stream) {
  return StartMmaPath<device::HalfMath, OperandMode::kConvolution>(path, slices, p, e, stream);
}

}  // namespace ingot
