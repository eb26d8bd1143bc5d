#include "cuda/convolution/gather.h"
#include "cuda/matmul/launches.h"

namespace ingot {

cudaError_t StartConvolutionE4M3(OperandMode, ProductPath path, int slices, const MatmulProblem& p, const Epilogue& e,
                                 cudaStream_t stream) {
  return StartMmaPath<device::E4M3Math, OperandMode::kConvolution>(path, slices, p, e, stream);
}

}  // namespace ingot
