// A step of a program as a kernel sees it.
#pragma once

#include "frame.h"
#include "kernel.h"
#include "string_tensor.h"
#include "thread_pool.h"
#include "workspace.h"

namespace ingot {

class KernelCall : public KernelContext {
 public:
  KernelCall(Frame& frame, const Step& step, BufferPool& buffers, StringHeap& strings, Workspace& workspace,
             ThreadPool& pool);
  ~KernelCall() override;

  // On the CPU.
  void Run();
  // Fails if an output has got no shape.
  void CheckOutputs() const;
  std::span<const DLTensor* const> inputs() const { return inputs_; }
  int32_t threads() const override;
  void ParallelFor(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) override;
  char* AllocateText(size_t bytes) override { return strings_.Allocate(bytes); }

 protected:
  const DLTensor* Prepare(size_t index, const std::span<const int64_t>* shape) override;
  void* AllocateScratch(size_t count, size_t size) override;

  Frame& frame_;
  const Step& step_;
  const DLTensor* tensors_[kMostTensors];  // inputs

 private:
  static constexpr size_t kMostScratch = 16;

  BufferPool& buffers_;
  StringHeap& strings_;
  Workspace& workspace_;
  ThreadPool& pool_;
  int64_t dim_values_[kMostTensors];
  bool ready_[kMostTensors] = {};  // whether an output has its shape and memory
  void* scratch_[kMostScratch];
  size_t scratch_count_ = 0;
};

}  // namespace ingot
