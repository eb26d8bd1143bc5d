#include "session.h"

#include <algorithm>
#include <cstring>

namespace ingot {
namespace {

std::byte* Address(const DLTensor& tensor) { return static_cast<std::byte*>(tensor.data) + tensor.byte_offset; }

bool IsContiguous(const DLTensor& tensor) {
  if (tensor.strides == nullptr) return true;
  int64_t stride = 1;
  bool contiguous = true;
  for (int32_t axis = tensor.ndim - 1; axis >= 0; --axis) {
    if (tensor.shape[axis] == 0) return true;  // no elements
    contiguous &= tensor.shape[axis] == 1 || tensor.strides[axis] == stride;
    stride *= tensor.shape[axis];
  }
  return contiguous;
}

std::string ExpectedShape(const TensorInfo& info) {
  std::string text = "[";
  for (size_t i = 0; i < info.dims.size(); ++i) text += Text(i == 0 ? "" : ", ", info.dims[i]);
  return text += ']';
}

bool IsHost(DLDevice device) { return device.device_type == kDLCPU || device.device_type == kDLCUDAHost; }

// "the CPU", "GPU 1".
std::string DeviceText(DLDevice device) {
  if (IsHost(device)) return "the CPU";
  if (device.device_type == kDLCUDA || device.device_type == kDLCUDAManaged) return Text("GPU ", device.device_id);
  return Text("device ", static_cast<int>(device.device_type), ":", device.device_id, " (DLPack)");
}

// The elements of an input of strings, checked, where the caller can no longer change them.
BufferRef CopyStrings(const TensorInfo& info, const void* data, const DLTensor& tensor, BufferPool& pool) {
  const size_t bytes = ByteCount(ShapeOf(tensor), sizeof(ingot_string)).value_or(0);
  BufferRef copy = pool.Allocate(bytes);
  if (bytes > 0) std::memcpy(copy.data(), data, bytes);
  const std::span strings(reinterpret_cast<const ingot_string*>(copy.data()), bytes / sizeof(ingot_string));
  if (const std::string problem = FindBadString(strings); !problem.empty())
    Fail(INGOT_ERROR_INPUT, "input '", info.name, "': ", problem);
  return copy;
}

// A result that has left its session. It owns its memory, and nothing of the session.
struct Taken {
  DLManagedTensorVersioned managed{};
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  BufferRef buffer;
  std::unique_ptr<DeviceEvent> ready;  // on a GPU: when the run that computes it has ended
  void* consumer = nullptr;            // the stream on which it was last used

  ~Taken() {
    if (consumer != nullptr) buffer.Fence(consumer);
  }
};

void DeleteTaken(DLManagedTensorVersioned* self) { delete static_cast<Taken*>(self->manager_ctx); }

Taken& TakenOf(const DLManagedTensorVersioned& output) {
  if (output.deleter != DeleteTaken) Fail(INGOT_ERROR_INVALID_ARGUMENT, "output was not taken out of a session");
  return *static_cast<Taken*>(output.manager_ctx);
}

}  // namespace

Session::Use::Use(Session& session) : session_(session) {
  if (session_.busy_.exchange(true, std::memory_order_acquire)) {
    Fail(INGOT_ERROR_BUSY, "the session is in use on another thread; give each thread a session of its own");
  }
}

Session::Session(std::shared_ptr<Model> model)
    : model_(std::move(model)), executor_(*model_), states_(model_->artifact(), executor_.memory()) {
  const Artifact& artifact = model_->artifact();
  for (const TensorInfo& info : artifact.inputs()) {
    inputs_.emplace_back();
    inputs_.back().first_extent = extents_.size();
    extents_.resize(extents_.size() + info.shape.size(), -1);
  }
  for (const StateInfo& info : artifact.states()) extents_.resize(extents_.size() + info.shape.size(), -1);
  outputs_ = std::vector<OutputSlot>(artifact.outputs().size() + artifact.states().size());
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const bool state = i >= artifact.outputs().size();
    const TensorInfo& info = state ? artifact.states()[i - artifact.outputs().size()] : artifact.outputs()[i];
    outputs_[i].shape.resize(info.shape.size());
    outputs_[i].strides.resize(info.shape.size());
    outputs_[i].tensor = {nullptr,
                          {kDLCPU, 0},
                          static_cast<int32_t>(info.shape.size()),
                          info.dtype->type,
                          outputs_[i].shape.data(),
                          outputs_[i].strides.data(),
                          0};
  }
  profile_.nanoseconds.resize(model_->program().functions[0].steps.size());
}

size_t Session::Checked(size_t index, size_t count, const char* what) const {
  if (index >= count)
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "there is no ", std::string_view(what), " ", index, "; the model has ", count);
  return index;
}

// What holds for any tensor of the caller's: checks that it is what `info` says, but for symbolic extents.
void Session::CheckTensor(const char* what, const TensorInfo& info, const DLTensor& tensor) const {
  const auto fail = [&](const auto&... parts) {
    Fail(INGOT_ERROR_INPUT, std::string_view(what), " '", info.name, "' ", parts...);
  };
  const Device* device = executor_.memory().device();
  const DLDeviceType type = tensor.device.device_type;
  const bool here =
      device != nullptr && (type == kDLCUDA || type == kDLCUDAManaged) && tensor.device.device_id == device->index();
  if (!IsHost(tensor.device) && !here) {
    fail("is on ", DeviceText(tensor.device), ", the model is on ",
         device == nullptr ? std::string("the CPU") : device->text(), "; copy it to ",
         device == nullptr ? "the CPU" : "that GPU or to the CPU", " first");
  }
  if (!(tensor.dtype == info.dtype->type)) fail("has type ", DTypeText(tensor.dtype), ", expected ", info.dtype->name);
  if (tensor.ndim < 0 || (tensor.ndim > 0 && tensor.shape == nullptr)) fail("has no shape");
  const std::span<const int64_t> shape(tensor.shape, static_cast<size_t>(tensor.ndim));
  bool fits = shape.size() == info.shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i)
    fits = shape[i] >= 0 && (info.shape[i] < 0 || shape[i] == info.shape[i]);
  if (!fits) fail("has shape ", ShapeText(shape), ", expected ", ExpectedShape(info));
  const auto bytes = ByteCount(shape, info.dtype->bytes);
  if (!bytes) fail("has shape ", ShapeText(shape), ", which is beyond memory");
  if (!IsContiguous(tensor)) fail("is not C-contiguous; copy it first (in NumPy: numpy.ascontiguousarray)");
  if (*bytes > 0 && tensor.data == nullptr) fail("has no data");
  // Complex numbers are two floats, and are aligned as such.
  const size_t alignment = std::min<size_t>(info.dtype->bytes, 8);
  if (*bytes > 0 && reinterpret_cast<uintptr_t>(Address(tensor)) % alignment != 0)
    fail("is not aligned to ", alignment, " bytes");
}

void Session::SetInput(size_t index, const DLTensor& tensor) {
  const TensorInfo& info = model_->artifact().inputs()[Checked(index, inputs_.size(), "input")];
  CheckTensor("input", info, tensor);
  InputSlot& input = inputs_[index];
  void* data = tensor.data == nullptr ? nullptr : Address(tensor);
  if (IsString(tensor.dtype)) {
    input.set = false;
    input.strings = CopyStrings(info, data, tensor, executor_.host_buffers());
    data = input.strings.data();
  }
  int64_t* extents = extents_.data() + input.first_extent;
  if (!std::equal(tensor.shape, tensor.shape + tensor.ndim, extents)) {
    std::copy(tensor.shape, tensor.shape + tensor.ndim, extents);
    main_ = nullptr;
  }
  input.data = data;
  input.on_host = executor_.memory().device() != nullptr && IsHost(tensor.device);
  input.set = true;
}

void Session::BindOutput(size_t index, const DLTensor* tensor) {
  OutputSlot& output = outputs_[Checked(index, model_->artifact().outputs().size(), "output")];
  if (tensor == nullptr) {
    output.is_bound = false;
    output.on_host = output.asked_host;
    output.tensor.device = output.on_host ? DLDevice{kDLCPU, 0} : model_->dlpack();
    return;
  }
  const TensorInfo& info = model_->artifact().outputs()[index];
  CheckTensor("output", info, *tensor);
  if (IsString(tensor->dtype))
    Fail(INGOT_ERROR_INPUT, "output '", info.name,
         "' holds strings, whose size no caller can know: it cannot be bound");
  output.bound_shape.assign(tensor->shape, tensor->shape + tensor->ndim);
  output.bound = tensor->data == nullptr ? nullptr : Address(*tensor);
  output.on_host = IsHost(tensor->device);
  output.tensor.device = tensor->device;
  output.is_bound = true;
}

void Session::SetOutputDevice(size_t index, DLDevice device) {
  OutputSlot& output = outputs_[Checked(index, model_->artifact().outputs().size(), "output")];
  const std::string& name = model_->artifact().outputs()[index].name;
  if (output.is_bound)
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "output '", name, "' is bound to memory, which says where it is given");
  const DLDevice here = model_->dlpack();
  const bool host = IsHost(device);
  if (!host && (device.device_type != here.device_type || device.device_id != here.device_id))
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "output '", name, "' cannot be given on ", DeviceText(device),
         ": the model is on ", DeviceText(here));
  output.asked_host = host;
  if (output.on_host == host) return;
  output.on_host = host;
  output.tensor.device = host ? DLDevice{kDLCPU, 0} : here;
  output.buffer = BufferRef();
  ran_ = false;
}

void Session::SetStream(void* stream) {
  if (executor_.stream() == nullptr) {
    if (stream == nullptr) return;
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "the model runs on the CPU, which has no streams");
  }
  executor_.stream()->Use(stream);
}

void* Session::Stream() { return executor_.stream() == nullptr ? nullptr : executor_.stream()->handle(); }

void Session::Synchronize() {
  if (executor_.stream() != nullptr) executor_.stream()->Synchronize();
}

void Session::Run() {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (!inputs_[i].set) Fail(INGOT_ERROR_INPUT, "input '", model_->artifact().inputs()[i].name, "' has not been set");
  }
  ran_ = false;
  try {
    RunOnce();
  } catch (...) {
    // The caller's memory may be freed now: nothing may still be read or written there.
    if (DeviceStream* stream = executor_.stream()) stream->device().Try(&DeviceLibrary::synchronize, stream->handle());
    throw;
  }
  ran_ = true;
}

void Session::RunOnce() {
  executor_.strings().Clear();
  if (states_.count() > 0 && (states_.changed() || main_ == nullptr)) PrepareStates();
  const ThreadPool::Run run(model_->pool(), executor_.workspace());
  if (main_ == nullptr) main_ = &executor_.Enter(0, extents_, 0);
  PointInputs();
  PointOutputs();
  executor_.Execute(*main_, 0, profiling_ ? &profile_ : nullptr);
  // Outputs may show the same memory: all strings are copied before the first buffer is let go of.
  for (size_t i = 0; i < outputs_.size(); ++i) PackOutput(i);
  const size_t given = model_->artifact().outputs().size();
  for (size_t i = 0; i < given; ++i) CollectOutput(i);
  for (size_t i = 0; i < states_.count(); ++i) {
    if (model_->artifact().states()[i].kind == StateInfo::Kind::kCarry)
      states_.Take(i, main_->tensor(main_->function().outputs[given + i]));
  }
  // What is on a GPU is waited for by those who use it.
  const bool wait = std::ranges::any_of(outputs_.begin(), outputs_.begin() + static_cast<ptrdiff_t>(given),
                                        [&](const OutputSlot& output) { return Staged(output); });
  if (wait) executor_.stream()->Synchronize();
  if (states_.count() > 0) states_.MarkUsed();
  executor_.strings().Clear();
  main_->ReleaseOwners();
}

// The shapes and rows of states that this run sees.
void Session::PrepareStates() {
  const auto& infos = model_->artifact().inputs();
  std::map<std::string, int64_t, std::less<>> known;
  for (size_t i = 0; i < infos.size(); ++i) {
    for (size_t axis = 0; axis < infos[i].shape.size(); ++axis) {
      if (infos[i].shape[axis] < 0) known.emplace(infos[i].dims[axis], extents_[inputs_[i].first_extent + axis]);
    }
  }
  const std::vector<int64_t> before = extents_;
  const size_t ranks = states_.Ranks();
  states_.Prepare(known, std::span(extents_).last(ranks));
  if (extents_ != before) main_ = nullptr;
}

void Session::PointInputs() {
  const Function& function = main_->function();
  for (size_t i = 0; i < states_.count(); ++i) main_->SetPointer(function.inputs[inputs_.size() + i], states_.Data(i));
  for (size_t i = 0; i < inputs_.size(); ++i) {
    InputSlot& input = inputs_[i];
    void* data = input.data;
    if (input.on_host) {
      const size_t bytes = main_->Bytes(function.inputs[i]);
      if (!input.copy || input.copy.capacity() < bytes) {
        input.copy = BufferRef();
        input.copy = executor_.buffers().Allocate(bytes);
      }
      executor_.memory().Store(input.copy.data(), input.data, bytes);
      data = input.copy.data();
    }
    main_->SetPointer(function.inputs[i], data);
  }
}

// Memory of the session's for an output. The last run's is used again unless the caller took it.
void* Session::Reserve(BufferRef& buffer, BufferPool& pool, size_t bytes) {
  const bool reusable = buffer && buffer.capacity() >= bytes && buffer.capacity() / 2 <= bytes + kTensorAlignment;
  if (!reusable) {
    buffer = BufferRef();
    buffer = pool.Allocate(bytes);
  }
  return buffer.data();
}

// A step may read an input after it has written an output.
bool Session::OverlapsAnInput(const OutputSlot& output, size_t bytes) const {
  const auto* begin = static_cast<const std::byte*>(output.bound);
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const auto* input = static_cast<const std::byte*>(inputs_[i].data);
    const size_t size = main_->Bytes(main_->function().inputs[i]);
    if (begin < input + size && input < begin + bytes) return true;
  }
  return false;
}

void Session::CheckBoundShape(size_t index, const DLTensor& tensor) const {
  if (std::equal(tensor.shape, tensor.shape + tensor.ndim, outputs_[index].bound_shape.begin())) return;
  Fail(INGOT_ERROR_INPUT, "output '", model_->artifact().outputs()[index].name, "' has shape ", ShapeText(tensor),
       ", but the memory it is bound to has ", ShapeText(outputs_[index].bound_shape));
}

void Session::PointOutputs() {
  const Function& function = main_->function();
  for (size_t i = 0; i < outputs_.size(); ++i) {
    OutputSlot& output = outputs_[i];
    output.taken = false;
    const int32_t root = function.OwnRoot(i);
    if (root == kAbsent) {
      output.buffer = BufferRef();  // the run that starts now can use it
      continue;
    }
    const size_t bytes = main_->Bytes(root);
    if (output.is_bound) CheckBoundShape(i, main_->tensor(function.outputs[i]));
    if (Staged(output)) {
      main_->SetPointer(root, Reserve(output.staging, executor_.buffers(), bytes));
      continue;
    }
    const bool direct = output.is_bound && !OverlapsAnInput(output, bytes);
    main_->SetPointer(root, direct ? output.bound : Reserve(output.buffer, executor_.buffers(), bytes));
  }
}

void Session::PackOutput(size_t index) {
  const DLTensor& tensor = main_->tensor(main_->function().outputs[index]);
  if (!IsString(tensor.dtype)) return;
  const size_t count = main_->Bytes(main_->function().outputs[index]) / sizeof(ingot_string);
  outputs_[index].packed =
      PackStrings({static_cast<const ingot_string*>(tensor.data), count}, executor_.host_buffers());
}

// Makes what the run left in a value the output: in place if it was computed there, by ownership of its buffer, or else
// (a view of an input, of a weight or of another output) as a copy.
void Session::CollectOutput(size_t index) {
  OutputSlot& output = outputs_[index];
  const Function& function = main_->function();
  const int32_t value = function.outputs[index];
  const DLTensor& tensor = main_->tensor(value);
  const size_t bytes = main_->Bytes(value);
  std::copy(tensor.shape, tensor.shape + tensor.ndim, output.shape.begin());
  int64_t stride = 1;
  for (size_t axis = output.shape.size(); axis-- > 0;) {
    output.strides[axis] = stride;
    stride *= std::max<int64_t>(output.shape[axis], 1);
  }
  if (Staged(output)) {
    if (output.is_bound) CheckBoundShape(index, tensor);
    void* target = output.is_bound ? output.bound : Reserve(output.buffer, executor_.host_buffers(), bytes);
    executor_.stream()->Copy(target, tensor.data, bytes, CopyKind::kToHost);
    output.tensor.data = target;
    if (output.is_bound) output.buffer = BufferRef();
    return;
  }
  if (output.is_bound) {
    CheckBoundShape(index, tensor);
    if (tensor.data != output.bound) executor_.memory().Copy(output.bound, tensor.data, bytes);
    output.buffer = BufferRef();
    output.tensor.data = output.bound;
    return;
  }
  if (output.packed) {
    output.buffer = std::move(output.packed);
  } else if (function.OwnRoot(index) == kAbsent) {
    BufferRef owner = std::move(main_->owner(function.values[static_cast<size_t>(value)].root));
    if (owner && owner.unique()) {
      output.buffer = std::move(owner);
    } else {
      executor_.memory().Copy(Reserve(output.buffer, executor_.buffers(), bytes), tensor.data, bytes);
    }
  }
  output.tensor.data = output.buffer.data();
}

const DLTensor& Session::Output(size_t index) const {
  const OutputSlot& output = outputs_[Checked(index, model_->artifact().outputs().size(), "output")];
  if (!ran_) Fail(INGOT_ERROR_INVALID_ARGUMENT, "the session has no outputs: it has not run, or its last run failed");
  if (output.taken)
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "output '", model_->artifact().outputs()[index].name,
         "' was taken since the last run");
  return output.tensor;
}

DLManagedTensorVersioned* Session::TakeOutput(size_t index) {
  const DLTensor& tensor = Output(index);
  OutputSlot& output = outputs_[index];
  if (output.is_bound || !output.buffer) {
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "output '", model_->artifact().outputs()[index].name,
         "' is in the caller's memory, which it is bound to");
  }
  auto taken = std::make_unique<Taken>();
  taken->shape = output.shape;
  taken->strides = output.strides;
  taken->managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  taken->managed.manager_ctx = taken.get();
  taken->managed.deleter = DeleteTaken;
  taken->managed.flags = tensor.dtype.bits < 8 ? DLPACK_FLAG_BITMASK_IS_SUBBYTE_TYPE_PADDED : 0;
  taken->managed.dl_tensor = tensor;
  taken->managed.dl_tensor.shape = taken->shape.data();
  taken->managed.dl_tensor.strides = taken->strides.data();
  if (!output.on_host) {
    taken->ready = std::make_unique<DeviceEvent>(executor_.stream()->device());
    taken->ready->Record(executor_.stream()->handle());
  }
  taken->buffer = std::move(output.buffer);
  output.taken = true;
  return &taken.release()->managed;
}

void AwaitOutput(DLManagedTensorVersioned* output, void* stream) {
  Taken& taken = TakenOf(*output);
  if (taken.ready == nullptr) return;  // on the CPU it is ready
  taken.ready->Wait(stream);
  taken.consumer = stream;
}

void ReadOutput(const DLManagedTensorVersioned& output, void* data, size_t bytes) {
  const Taken& taken = TakenOf(output);
  const DLTensor& tensor = output.dl_tensor;
  const size_t size = ByteCount(ShapeOf(tensor), FindDType(tensor.dtype)->bytes).value_or(0);
  if (bytes != size) Fail(INGOT_ERROR_INVALID_ARGUMENT, "the output has ", size, " bytes, not ", bytes);
  if (taken.ready == nullptr) {
    if (bytes > 0) std::memcpy(data, tensor.data, bytes);
    return;
  }
  DeviceStream stream(taken.ready->device());
  taken.ready->Wait(stream.handle());
  stream.Copy(data, tensor.data, bytes, CopyKind::kToHost);
  stream.Synchronize();
}

void Session::SetProfiling(bool enabled) {
  if (enabled && !profiling_) {
    std::fill(profile_.nanoseconds.begin(), profile_.nanoseconds.end(), 0);
    profile_.runs = 0;
  }
  profiling_ = enabled;
}

}  // namespace ingot
