// The C functions of libingot_cuda that run a kernel by itself, on tensors of the caller: what tests and benchmarks
// use.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "kernel.h"
#include "registry.h"

#if defined(INGOT_EMULATE)
#include "emulator/emulator.h"
#endif

#define INGOT_CUDA_EXPORT extern "C" __attribute__((visibility("default")))

namespace ingot {
namespace {

constexpr size_t kAlignment = 256;

// Device memory that runs on one stream use one after another. It grows and is kept: earlier work may still be using
// it.
class ScratchPool {
 public:
  void Reset() {
    chunk_ = 0;
    used_ = 0;
  }

  void* Take(size_t bytes) {
    bytes = std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    for (; chunk_ < chunks_.size(); ++chunk_, used_ = 0) {
      if (used_ + bytes > chunks_[chunk_].bytes) continue;
      void* memory = static_cast<std::byte*>(chunks_[chunk_].memory) + used_;
      used_ += bytes;
      return memory;
    }
    Chunk chunk{nullptr, std::max<size_t>(bytes, 1 << 20)};
    CudaContext::Check(cudaMalloc(&chunk.memory, chunk.bytes), "cudaMalloc");
    chunks_.push_back(chunk);
    used_ = bytes;
    return chunk.memory;
  }

 private:
  struct Chunk {
    void* memory;
    size_t bytes;
  };
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;
  size_t used_ = 0;
};

// Where the kernels of this process report data that they do not take, unless they run for libingot.
DeviceFault& Faults() {
  static DeviceFault* const faults = [] {
#if defined(INGOT_EMULATE)
    static DeviceFault memory{};
    return &memory;
#else
    void* memory = nullptr;
    CudaContext::Check(cudaMallocHost(&memory, sizeof(DeviceFault)), "cudaMallocHost");
    return new (memory) DeviceFault{};
#endif
  }();
  return *faults;
}

struct Device {
  int capability = 0;
  int multiprocessors = 0;
};

Device CurrentDevice() {
  int device = 0;
  int major = 0;
  int minor = 0;
  Device result;
  CudaContext::Check(cudaGetDevice(&device), "cudaGetDevice");
  CudaContext::Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                     "cudaDeviceGetAttribute");
  CudaContext::Check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
                     "cudaDeviceGetAttribute");
  CudaContext::Check(cudaDeviceGetAttribute(&result.multiprocessors, cudaDevAttrMultiProcessorCount, device),
                     "cudaDeviceGetAttribute");
  result.capability = 10 * major + minor;
  return result;
}

// One call of a kernel, on tensors whose memory is there.
class CallContext final : public CudaContext {
 public:
  CallContext(std::span<const DLTensor* const> inputs, std::span<const DLTensor* const> outputs,
              std::span<const int64_t> dims, std::span<const int64_t> ints, std::span<const double> floats,
              cudaStream_t stream, Device device, ScratchPool& scratch)
      : outputs_given_(outputs), names_(outputs.size()), stream_(stream), device_(device), scratch_(scratch) {
    for (size_t i = 0; i < names_.size(); ++i) names_[i] = static_cast<int32_t>(i);
    inputs_ = inputs;
    outputs_ = names_;
    dims_ = dims;
    ints_ = ints;
    floats_ = floats;
    scratch_.Reset();
  }

  cudaStream_t stream() const override { return stream_; }
  int capability() const override { return device_.capability; }
  int multiprocessors() const override { return device_.multiprocessors; }
  FaultPlace faults() const override { return {&Faults(), 1}; }

#if defined(INGOT_EMULATE)
  // Of its own, full of NaN, and guarded behind its end.
  void* DeviceScratch(size_t bytes) override {
    guarded_.emplace_back(bytes + kGuard + kAlignment, std::byte{0xff});
    void* memory = guarded_.back().data();
    size_t space = guarded_.back().size();
    std::align(kAlignment, bytes + kGuard, memory, space);
    guards_.push_back(static_cast<std::byte*>(memory) + bytes);
    return memory;
  }

  void CheckGuards() const {
    for (const std::byte* guard : guards_) {
      if (std::any_of(guard, guard + kGuard, [](std::byte byte) { return byte != std::byte{0xff}; }))
        FailKernel("the kernel wrote behind the end of its DeviceScratch");
    }
  }
#else
  void* DeviceScratch(size_t bytes) override { return scratch_.Take(bytes); }
  void CheckGuards() const {}
#endif

  int32_t threads() const override { return 1; }
  void ParallelFor(int64_t count, int64_t, FunctionRef<void(int64_t begin, int64_t end)> body) override {
    if (count > 0) body(0, count);
  }
  char* AllocateText(size_t) override { FailKernel("CUDA kernels have no strings"); }

 protected:
  const DLTensor* Prepare(size_t index, const std::span<const int64_t>* shape) override {
    const DLTensor& output = *outputs_given_[index];
    if (shape != nullptr && !std::ranges::equal(*shape, ShapeOf(output)))
      FailKernel("output ", index, " has shape ", ShapeText(*shape), " but memory of shape ", ShapeText(output));
    return &output;
  }

  void* AllocateScratch(size_t count, size_t size) override { return host_.emplace_back(count * size).data(); }

 private:
  static constexpr size_t kGuard = 4096;
  std::span<const DLTensor* const> outputs_given_;
  std::vector<int32_t> names_;
  cudaStream_t stream_;
  Device device_;
  ScratchPool& scratch_;
  std::deque<std::vector<std::byte>> host_;
  std::deque<std::vector<std::byte>> guarded_;
  std::vector<const std::byte*> guards_;
};

void CheckCount(std::string_view what, size_t count, Count allowed) {
  if (count >= allowed.least && count <= allowed.most) return;
  FailKernel("it takes ", allowed.least, allowed.most > allowed.least ? Text(" to ", allowed.most) : std::string(), " ",
             what, ", not ", count);
}

void Run(const char* name, int capability, std::span<const DLTensor* const> inputs,
         std::span<const DLTensor* const> outputs, std::span<const int64_t> dims, std::span<const int64_t> ints,
         std::span<const double> floats, cudaStream_t stream) {
  // One call at a time: the scratch memory of a stream is shared by its calls.
  static std::mutex mutex;
  static std::map<cudaStream_t, ScratchPool> scratches;
  const std::lock_guard lock(mutex);
  const CudaKernel* kernel = FindCudaKernel(name);
  if (kernel == nullptr) FailKernel("there is no CUDA kernel of this name");
  const Arity& arity = kernel->arity;
  CheckCount("inputs", inputs.size(), arity.inputs);
  CheckCount("outputs", outputs.size(), arity.outputs);
  CheckCount("dims", dims.size(), {arity.dims, arity.dims});
  CheckCount("floats", floats.size(), {arity.floats, arity.floats});
  // A kernel may take one more integer, which picks a variant.
  CheckCount("ints", ints.size(), {arity.ints, arity.ints + 1});
  for (size_t i = 0; i < arity.inputs.least; ++i) {
    if (inputs[i] == nullptr) FailKernel("input ", i, " cannot be left out");
  }
#if defined(INGOT_EMULATE)
  emulator::SetCapability(capability == 0 ? 90 : capability);
#endif
  Device device = CurrentDevice();
  if (capability > device.capability)
    FailKernel("capability ", capability, " was asked for, on a device of capability ", device.capability);
  if (capability != 0) device.capability = capability;
  CallContext context(inputs, outputs, dims, ints, floats, stream, device, scratches[stream]);
  kernel->run(context);
  CudaContext::Check(cudaGetLastError(), "launch");
  context.CheckGuards();
}

// Runs body(); 0, or 1 with a message.
template <typename Body>
int Guarded(char* message, size_t message_size, const Body& body) {
  std::string text;
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    text = error.what();
  } catch (...) {
    text = "an unknown error";
  }
  if (message_size > 0) {
    const size_t length = std::min(text.size(), message_size - 1);
    std::memcpy(message, text.data(), length);
    message[length] = '\0';
  }
  return 1;
}

}  // namespace
}  // namespace ingot

// Runs a kernel of registry.cpp. Tensors are in device memory; an input is NULL where it is left out. `capability` 0 is
// the device's; another takes the path for that. `stream` is a cudaStream_t. Returns 0, or 1 and a sentence in
// `message`; does not wait for the device.
INGOT_CUDA_EXPORT int ingot_cuda_run_kernel(const char* name, int capability, DLTensor* const* inputs,
                                            size_t input_count, DLTensor* const* outputs, size_t output_count,
                                            const int64_t* dims, size_t dim_count, const int64_t* ints,
                                            size_t int_count, const double* floats, size_t float_count, void* stream,
                                            char* message, size_t message_size) {
  return ingot::Guarded(message, message_size, [&] {
    ingot::WithContext(name, [&] {
      ingot::Run(name, capability, {inputs, input_count}, {outputs, output_count}, {dims, dim_count}, {ints, int_count},
                 {floats, float_count}, static_cast<cudaStream_t>(stream));
    });
  });
}

// What kernels that were waited for have reported since the last call, the first of it: 1 and the text, or 0.
INGOT_CUDA_EXPORT int ingot_cuda_take_fault(char* message, size_t message_size) {
  ingot::DeviceFault& found = ingot::Faults();
  if (found.step == 0) return 0;
  const std::string text = ingot::FaultText(found.fault);
  found = {};
  return ingot::Guarded(message, message_size, [&] { ingot::FailKernel(text); });
}

// The kernels, from 0 on: name and contract, or NULL behind the last.
INGOT_CUDA_EXPORT const char* ingot_cuda_kernel_name(size_t index) {
  return index < ingot::CudaKernels().size() ? ingot::CudaKernels()[index].name.data() : nullptr;
}
INGOT_CUDA_EXPORT const char* ingot_cuda_kernel_contract(size_t index) {
  return index < ingot::CudaKernels().size() ? ingot::CudaKernels()[index].contract.data() : nullptr;
}

// The current device's compute capability (90) and number of multiprocessors. Returns 0, or 1 and a sentence in
// `message`.
INGOT_CUDA_EXPORT int ingot_cuda_device(int* capability, int* multiprocessors, char* message, size_t message_size) {
  return ingot::Guarded(message, message_size, [&] {
    const ingot::Device device = ingot::CurrentDevice();
    *capability = device.capability;
    *multiprocessors = device.multiprocessors;
  });
}
