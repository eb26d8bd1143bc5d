#include "cuda/convolution/gather.h"
#include "cuda/matmul/launches.h"

namespace ingot {

cudaError_t StartConvolutionTf32(OperandMode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                                 cudaStream_t stream) {
  return StartMmaPath<device::Tf32Math, OperandMode::kConvolution>(path, slices, p, e, stream);
}

}  // namespace ingot
