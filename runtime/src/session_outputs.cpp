// Where a session's outputs are given, and what becomes of them.

#include <algorithm>
#include <cstring>

#include "session.h"

namespace ingot {
namespace {

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
  output.bound = tensor->data == nullptr ? nullptr : Data<std::byte>(*tensor);
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

}  // namespace ingot
