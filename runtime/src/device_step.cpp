#include "device_step.h"

#include <algorithm>
#include <new>
#include <string>

#include "builtins.h"

namespace ingot {
namespace {

constexpr size_t kScratchAlignment = 256;
constexpr size_t kLeastChunk = size_t{1} << 20;

}  // namespace

void DeviceScratch::Restart() {
  for (Chunk& chunk : chunks_) chunk.used = 0;
}

void* DeviceScratch::Allocate(size_t bytes) {
  bytes = AlignUp(std::max<size_t>(bytes, 1), kScratchAlignment);
  auto found = std::ranges::find_if(chunks_, [&](const Chunk& c) { return c.memory->size() - c.used >= bytes; });
  if (found == chunks_.end()) {
    // Doubling keeps the chunks that were outgrown smaller, all together, than the one in use.
    const size_t last = chunks_.empty() ? kLeastChunk : 2 * chunks_.back().memory->size();
    auto memory = std::make_unique<Arena>(&device_);
    memory->Reserve(std::max(bytes, last));
    chunks_.push_back({std::move(memory), 0});
    found = chunks_.end() - 1;
  }
  std::byte* memory = found->memory->data() + found->used;
  found->used += bytes;
  return memory;
}

DeviceFaults::DeviceFaults(const Device& device) : device_(device) {
  void* memory = device.AllocateHost(sizeof(DeviceFault));
  if (memory == nullptr) Fail(INGOT_ERROR_MEMORY, "cannot allocate ", sizeof(DeviceFault), " bytes of pinned memory");
  memory_ = new (memory) DeviceFault{};
}

DeviceFaults::~DeviceFaults() { device_.FreeHost(memory_); }

void DeviceFaults::Throw(const Program& program) {
  const DeviceFault found = *memory_;
  *memory_ = {};
  std::string place = "a step";
  for (const Function& function : program.functions) {
    for (const Step& step : function.steps) {
      if (Name(step) == found.step) place = Place(step);
    }
  }
  Fail(INGOT_ERROR_EXECUTION, place, ": ", FaultText(found.fault));
}

DeviceKernelRun::DeviceKernelRun(KernelCall& call, const DeviceStream& stream, DeviceScratch& scratch,
                                 Workspace& workspace)
    : call_(call), stream_(stream), scratch_(scratch), workspace_(workspace) {
  scratch_.Restart();
}

DeviceKernelRun::~DeviceKernelRun() {
  for (void* block : blocks_) workspace_.Free(block);
}

template <typename Result, typename Body>
Result* DeviceKernelRun::Guard(Body&& body) noexcept {
  try {
    return body();
  } catch (...) {
    failure_ = std::current_exception();
    return nullptr;
  }
}

void DeviceKernelRun::Run(const Step& step, DeviceFault* fault) {
  DeviceKernelCall call{};
  call.inputs = call_.inputs().data();
  call.input_count = call_.input_count();
  call.output_count = call_.output_count();
  call.dims = call_.dims().data();
  call.dim_count = call_.dims().size();
  call.ints = call_.ints().data();
  call.int_count = call_.ints().size();
  call.floats = call_.floats().data();
  call.float_count = call_.floats().size();
  call.threads = call_.threads();
  call.caller = this;
  call.fault = fault;
  call.step = DeviceFaults::Name(step);
  call.prepare = [](void* caller, size_t index, const int64_t* shape, size_t ndim) {
    auto& run = *static_cast<DeviceKernelRun*>(caller);
    return run.Guard<const DLTensor>(
        [&] { return shape == nullptr ? &run.call_.Output(index) : &run.call_.AllocateOutput(index, {shape, ndim}); });
  };
  call.scratch = [](void* caller, size_t bytes) {
    auto& run = *static_cast<DeviceKernelRun*>(caller);
    return run.Guard<void>([&] { return run.scratch_.Allocate(bytes); });
  };
  call.host_scratch = [](void* caller, size_t bytes) {
    auto& run = *static_cast<DeviceKernelRun*>(caller);
    return run.Guard<void>([&] {
      void* block = run.workspace_.Allocate(bytes);
      if (block == nullptr) Fail(INGOT_ERROR_MEMORY, "cannot allocate ", bytes, " bytes of scratch memory");
      run.blocks_.push_back(block);
      return block;
    });
  };
  const Device& device = stream_.device();
  const int32_t status = device.library().run_kernel(device.index(), stream_.handle(), step.device_kernel, &call);
  if (failure_) std::rethrow_exception(failure_);
  device.Check(status);
}

HostKernelCall::HostKernelCall(Frame& frame, const Step& step, BufferPool& buffers, BufferPool& host_buffers,
                               StringHeap& strings, Workspace& workspace, ThreadPool& pool, const DeviceStream& stream,
                               std::span<const Weight> weights)
    : KernelCall(frame, step, buffers, strings, workspace, pool), host_buffers_(host_buffers), stream_(stream) {
  Fetch(weights);
}

// Copies inputs to the host. Weights are there already.
void HostKernelCall::Fetch(std::span<const Weight> weights) {
  bool wait = false;
  for (size_t i = 0; i < step_.inputs.size(); ++i) {
    const int32_t value = step_.inputs[i];
    if (value == kAbsent) continue;
    const Function& function = frame_.function();
    const Value& root = function.values[static_cast<size_t>(function.values[static_cast<size_t>(value)].root)];
    Copy& copy = input_copies_[i];
    copy.tensor = frame_.tensor(value);
    copy.tensor.device = {kDLCPU, 0};
    if (root.storage == Storage::kWeight) {
      copy.tensor.data = const_cast<std::byte*>(weights[static_cast<size_t>(root.slot)].bytes.data());
    } else {
      const size_t bytes = frame_.Bytes(value);
      copy.buffer = host_buffers_.Allocate(bytes);
      stream_.Copy(copy.buffer.data(), copy.tensor.data, bytes, CopyKind::kToHost);
      copy.tensor.data = copy.buffer.data();
      wait = true;
    }
    tensors_[i] = &copy.tensor;
  }
  if (wait) stream_.Synchronize();
}

const DLTensor* HostKernelCall::Prepare(size_t index, const std::span<const int64_t>* shape) {
  const DLTensor& tensor = *KernelCall::Prepare(index, shape);
  Copy& copy = output_copies_[index];
  if (!copy.buffer) {
    copy.tensor = tensor;
    copy.tensor.device = {kDLCPU, 0};
    const int32_t kept = KeptInput(step_, index);
    copy.buffer =
        kept == kAbsent ? host_buffers_.Allocate(frame_.Bytes(step_.outputs[index])) : input_copies_[kept].buffer;
    copy.tensor.data = copy.buffer.data();
  }
  return &copy.tensor;
}

void HostKernelCall::RunOnHost() {
  Run();
  for (size_t i = 0; i < step_.outputs.size(); ++i) {
    const int32_t value = step_.outputs[i];
    if (output_copies_[i].buffer)
      stream_.Copy(frame_.tensor(value).data, output_copies_[i].buffer.data(), frame_.Bytes(value),
                   CopyKind::kToDevice);
  }
}

}  // namespace ingot
