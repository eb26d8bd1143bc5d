#include "cuda/convolution/gather.h"
#include "cuda/matmul/launches.h"

namespace ingot {

cudaError_t StartConvolutionInt8(OperandMode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                                 cudaStream_t stream) {
  return StartMmaPath<device::Int8Math, OperandMode::kConvolution>(path, slices, p, e, stream);
}

}  // namespace ingot
