// Convolutions in which every channel is a group of its own: bound by reading X, without matrix instructions.
#pragma once

#include "cuda/matmul/epilogue.h"
#include "cuda/matmul/problem.h"

namespace ingot {

struct DepthwiseProblem {
  const void* x;
  const void* w;  // [channels, kernel_height, kernel_width]
  Number number;  // of X and W
  int images, channels, kernel_height;
  ConvolutionSteps steps;
  bool vectors;  // eight channels of X are 16-byte aligned, wherever they begin
};

// Whether weights of eight channels fit into shared memory.
bool CanRunDepthwise(const DepthwiseProblem& p);

cudaError_t RunDepthwise(const DepthwiseProblem& p, const Epilogue& e, cudaStream_t stream);

}  // namespace ingot
