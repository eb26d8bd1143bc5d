// Which CUDA kernels exist: one table, in registry.cpp.
#pragma once

#include <span>
#include <string_view>

#include "../registry.h"
#include "kernel.h"

namespace ingot {

struct CudaKernel {
  std::string_view name;
  CudaKernelFunction run;
  Arity arity;
  std::string_view contract;  // one line; the header in the kernel's folder says all
};

std::span<const CudaKernel> CudaKernels();

// The row of a name, or nullptr.
const CudaKernel* FindCudaKernel(std::string_view name);

}  // namespace ingot
