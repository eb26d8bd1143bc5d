#include "session.h"

#include <algorithm>
#include <cstring>

namespace ingot {
namespace {

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
  if (*bytes > 0 && reinterpret_cast<uintptr_t>(Data<std::byte>(tensor)) % alignment != 0)
    fail("is not aligned to ", alignment, " bytes");
}

void Session::SetInput(size_t index, const DLTensor& tensor) {
  const TensorInfo& info = model_->artifact().inputs()[Checked(index, inputs_.size(), "input")];
  CheckTensor("input", info, tensor);
  InputSlot& input = inputs_[index];
  void* data = tensor.data == nullptr ? nullptr : Data<std::byte>(tensor);
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
  if (executor_.HasFault()) executor_.ThrowFault();
}

void Session::Run() {
  for (size_t i = 0; i < inputs_.size(); ++i) {
    if (!inputs_[i].set) Fail(INGOT_ERROR_INPUT, "input '", model_->artifact().inputs()[i].name, "' has not been set");
  }
  ran_ = false;
  if (executor_.HasFault()) executor_.ThrowFault();  // of a run that nothing has waited for
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
  if (main_ == nullptr) Prepare();
  PointInputs();
  PointOutputs();
  if (rows_at_a_time_ < rows_) {
    RunInPieces();
  } else {
    executor_.Execute(*main_, 0, profiling_ ? &profile_ : nullptr);
  }
  // Outputs may show the same memory: all strings are copied before the first buffer is let go of.
  for (size_t i = 0; i < outputs_.size(); ++i) PackOutput(i);
  const size_t given = model_->artifact().outputs().size();
  for (size_t i = 0; i < given; ++i) CollectOutput(i);
  // What is on a GPU is waited for by those who use it.
  const bool wait = std::ranges::any_of(outputs_.begin(), outputs_.begin() + static_cast<ptrdiff_t>(given),
                                        [&](const OutputSlot& output) { return Staged(output); });
  if (wait) executor_.stream()->Synchronize();
  if (wait && executor_.HasFault()) {
    main_->ReleaseOwners();
    executor_.ThrowFault();  // states are as before
  }
  for (size_t i = 0; i < states_.count(); ++i) {
    if (model_->artifact().states()[i].kind == StateInfo::Kind::kCarry)
      states_.Take(i, main_->tensor(main_->function().outputs[given + i]));
  }
  if (states_.count() > 0) states_.MarkUsed();
  executor_.strings().Clear();
  main_->ReleaseOwners();
}

// The frame for the present extents, and how many rows of a batch are run at a time.
void Session::Prepare() {
  const int32_t rows = model_->program().rows;
  Frame& whole = executor_.FrameOf(0, extents_);
  rows_ = rows == kAbsent ? 0 : whole.symbol(rows);
  rows_at_a_time_ = model_->RowsAtATime(whole, rows_);
  main_ = rows_at_a_time_ < rows_ ? &whole : &executor_.Enter(0, extents_, 0);
}

// Runs the rows of a batch some after others; the frame for all of them says where inputs and outputs are.
void Session::RunInPieces() {
  const Function& function = main_->function();
  const Artifact& artifact = model_->artifact();
  const std::string_view dimension = artifact.dimensions()[static_cast<size_t>(model_->program().rows)].name;
  const auto has_rows = [&](const TensorInfo& info) { return !info.dims.empty() && info.dims[0] == dimension; };
  const int64_t runs = profile_.runs;
  std::vector<int64_t> extents = extents_;
  for (int64_t first = 0; first < rows_; first += rows_at_a_time_) {
    const int64_t rows = std::min(rows_at_a_time_, rows_ - first);
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (has_rows(artifact.inputs()[i])) extents[inputs_[i].first_extent] = rows;
    }
    Frame& piece = executor_.Enter(0, extents, 0);
    const auto point = [&](int32_t root, bool in_rows) {
      const size_t skipped = in_rows ? main_->Bytes(root) / static_cast<size_t>(rows_) * static_cast<size_t>(first) : 0;
      piece.SetPointer(root, static_cast<std::byte*>(main_->tensor(root).data) + skipped);
    };
    for (size_t i = 0; i < inputs_.size(); ++i) point(function.inputs[i], has_rows(artifact.inputs()[i]));
    for (size_t i = 0; i < outputs_.size(); ++i) point(function.OwnRoot(i), true);
    executor_.Execute(piece, 0, profiling_ ? &profile_ : nullptr);
    piece.ReleaseOwners();
  }
  if (profiling_) profile_.runs = runs + 1;
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

void Session::SetProfiling(bool enabled) {
  if (enabled && !profiling_) {
    std::fill(profile_.nanoseconds.begin(), profile_.nanoseconds.end(), 0);
    profile_.runs = 0;
  }
  profiling_ = enabled;
}

}  // namespace ingot
