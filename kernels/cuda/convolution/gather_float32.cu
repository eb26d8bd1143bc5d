#include "cuda/convolution/gather.h"
#include "cuda/matmul/fma_launches.h"

namespace ingot {

cudaError_t StartConvolutionFloat32(OperandMode, ProductPath path, int slices, const MatmulProblem& p,
                                    const Epilogue& e, cudaStream_t stream) {
  return StartFmaPath<OperandMode::kConvolution>(path, slices, p, e, stream);
}

}  // namespace ingot
