// A step of a program as a kernel sees it.
#pragma once

#include "executor.h"
#include "kernel.h"

namespace ingot {

class KernelCall final : public KernelContext {
 public:
  KernelCall(Frame& frame, const Step& step, BufferPool& buffers, StringHeap& strings, Workspace& workspace,
             ThreadPool& pool);
  ~KernelCall() override;

  void Run();
  int32_t threads() const override;
  void ParallelFor(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) override;
  char* AllocateText(size_t bytes) override { return strings_.Allocate(bytes); }

 protected:
  const DLTensor* Prepare(size_t index, const std::span<const int64_t>* shape) override;
  void* AllocateScratch(size_t count, size_t size) override;

 private:
  static constexpr size_t kMostScratch = 16;

  Frame& frame_;
  const Step& step_;
  BufferPool& buffers_;
  StringHeap& strings_;
  Workspace& workspace_;
  ThreadPool& pool_;
  const DLTensor* tensors_[kMostTensors];
  int64_t dim_values_[kMostTensors];
  bool ready_[kMostTensors] = {};  // whether an output has its shape and memory
  void* scratch_[kMostScratch];
  size_t scratch_count_ = 0;
};

}  // namespace ingot
