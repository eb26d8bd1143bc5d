// A kernel's context over the callbacks of libingot.
#pragma once

#include "cuda/kernel.h"
#include "device_library.h"

namespace ingot::cuda {

// A callback of libingot's failed, which knows why.
struct CallbackFailed {};

class Context final : public CudaContext {
 public:
  Context(const DeviceKernelCall& call, cudaStream_t stream, int capability, int multiprocessors);

  cudaStream_t stream() const override { return stream_; }
  int capability() const override { return capability_; }
  int multiprocessors() const override { return multiprocessors_; }
  FaultPlace faults() const override { return {call_.fault, call_.step}; }
  void* DeviceScratch(size_t bytes) override;
  int32_t threads() const override { return call_.threads; }
  void ParallelFor(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) override;
  char* AllocateText(size_t bytes) override;

 protected:
  const DLTensor* Prepare(size_t index, const std::span<const int64_t>* shape) override;
  void* AllocateScratch(size_t count, size_t size) override;

 private:
  const DeviceKernelCall& call_;
  const cudaStream_t stream_;
  const int capability_;
  const int multiprocessors_;
};

}  // namespace ingot::cuda
