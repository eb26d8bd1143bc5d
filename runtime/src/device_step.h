// Steps of a program on a GPU: kernels of libingot_cuda, and kernels of the CPU in between.
#pragma once

#include <exception>
#include <memory>
#include <vector>

#include "device.h"
#include "kernel_call.h"

namespace ingot {

// Scratch memory of kernels on one stream: a kernel's is the next one's again. It only grows, so that addresses that
// were captured in a graph stay good.
class DeviceScratch {
 public:
  explicit DeviceScratch(const Device& device) : device_(device) {}

  // A kernel starts: what the last one had is free.
  void Restart();
  void* Allocate(size_t bytes);

 private:
  struct Chunk {
    std::unique_ptr<Arena> memory;
    size_t used;
  };

  const Device& device_;
  std::vector<Chunk> chunks_;
};

// Where the kernels of an executor report data that they do not take. The memory is the host's, so that looking there
// costs nothing, and stays, so that graphs can hold its address.
class DeviceFaults {
 public:
  explicit DeviceFaults(const Device& device);
  ~DeviceFaults();
  DeviceFaults(const DeviceFaults&) = delete;
  DeviceFaults& operator=(const DeviceFaults&) = delete;

  DeviceFault* where() const { return memory_; }
  // What kernels know a step by.
  static uint64_t Name(const Step& step) { return reinterpret_cast<uint64_t>(&step); }
  // Whether work that is done has reported anything.
  bool Any() const { return static_cast<const volatile DeviceFault*>(memory_)->step != 0; }
  // Throws what was reported and forgets it. The stream was waited for.
  [[noreturn]] void Throw(const Program& program);

 private:
  const Device& device_;
  DeviceFault* memory_;
};

// A kernel of libingot_cuda.
class DeviceKernelRun {
 public:
  DeviceKernelRun(KernelCall& call, const DeviceStream& stream, DeviceScratch& scratch, Workspace& workspace);
  ~DeviceKernelRun();
  DeviceKernelRun(const DeviceKernelRun&) = delete;
  DeviceKernelRun& operator=(const DeviceKernelRun&) = delete;

  void Run(const Step& step, DeviceFault* fault);

 private:
  // Runs `body` for the library: an exception is kept, and comes back as nullptr.
  template <typename Result, typename Body>
  Result* Guard(Body&& body) noexcept;

  KernelCall& call_;
  const DeviceStream& stream_;
  DeviceScratch& scratch_;
  Workspace& workspace_;
  std::vector<void*> blocks_;  // of the workspace
  std::exception_ptr failure_;
};

// A kernel of the CPU whose tensors are a GPU's: copies of them on the host.
class HostKernelCall final : public KernelCall {
 public:
  HostKernelCall(Frame& frame, const Step& step, BufferPool& buffers, BufferPool& host_buffers, StringHeap& strings,
                 Workspace& workspace, ThreadPool& pool, const DeviceStream& stream, std::span<const Weight> weights);
  void RunOnHost();

 protected:
  const DLTensor* Prepare(size_t index, const std::span<const int64_t>* shape) override;

 private:
  struct Copy {
    DLTensor tensor{};
    BufferRef buffer;
  };
  void Fetch(std::span<const Weight> weights);

  BufferPool& host_buffers_;
  const DeviceStream& stream_;
  Copy input_copies_[kMostTensors];
  Copy output_copies_[kMostTensors];
};

}  // namespace ingot
