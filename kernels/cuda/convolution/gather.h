// Starting the kernels of kernels/cuda/matmul/mma_kernel.h and fma_kernel.h that gather pixels.
#pragma once

#include "cuda/matmul/products.h"

namespace ingot {

cudaError_t StartConvolutionHalf(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p,
                                 const Epilogue& e, cudaStream_t stream);
cudaError_t StartConvolutionBFloat16(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p,
                                     const Epilogue& e, cudaStream_t stream);
cudaError_t StartConvolutionTf32(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p,
                                 const Epilogue& e, cudaStream_t stream);
cudaError_t StartConvolutionFloat32(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p,
                                    const Epilogue& e, cudaStream_t stream);
cudaError_t StartConvolutionInt8(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p,
                                 const Epilogue& e, cudaStream_t stream);
cudaError_t StartConvolutionE4M3(OperandMode mode, ProductPath path, int slices, const MatmulProblem& p,
                                 const Epilogue& e, cudaStream_t stream);

}  // namespace ingot
