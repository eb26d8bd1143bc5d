// The contract between the runtime and a CUDA kernel.
//
// A kernel is a host function. Its tensors are C-contiguous and lie in device memory; the function checks what it is
// given (FailKernel), chooses a path and launches it on the context's stream. It never synchronizes, keeps no state and
// allocates nothing but DeviceScratch, so that what it does can be captured in a CUDA graph. What depends on data is
// reported by device code (report.h). Name, arity and meaning are those of the CPU kernel of the same name, where there
// is one.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

#include "../kernel.h"
#include "cuda/fault_place.h"

namespace ingot {

// What a failed call of the CUDA runtime says, and what to do where that is another build of this library.
inline std::string_view CudaErrorText(cudaError_t error) {
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    return "libingot_cuda was built without code for this GPU (`make cuda` builds it with code for all)";
  return cudaGetErrorString(error);
}

class CudaContext : public KernelContext {
 public:
  virtual cudaStream_t stream() const = 0;
  // The compute capability to write for, as 10 major + minor: 80, 89, 90. Hopper's own instructions (wgmma, TMA) are
  // for 90 alone.
  virtual int capability() const = 0;
  virtual int multiprocessors() const = 0;
  // Where what is launched reports data that it does not take.
  virtual FaultPlace faults() const = 0;
  // Uninitialized device memory, aligned to 256 bytes, until what the kernel has put on the stream is done. Calls give
  // different memory.
  virtual void* DeviceScratch(size_t bytes) = 0;

  template <typename T>
  T* DeviceScratch(size_t count) {
    return static_cast<T*>(DeviceScratch(count * sizeof(T)));
  }

  // Throws if a call of the CUDA runtime failed: "attention: cudaMemsetAsync: out of memory".
  static void Check(cudaError_t error, std::string_view what) {
    if (error != cudaSuccess) FailKernel(what, ": ", CudaErrorText(error));
  }
};

using CudaKernelFunction = void (*)(CudaContext& context);

}  // namespace ingot
