#include "executor.h"

#include <algorithm>
#include <chrono>

#include "builtins.h"
#include "device_step.h"
#include "kernel_call.h"
#include "loop.h"

namespace ingot {
namespace {

// Shapes that alternate, such as a prompt's and a single token's, keep their frames.
constexpr size_t kMostFrames = 8;

[[noreturn]] void FailCall(const Step& step) {
  Fail(INGOT_ERROR_EXECUTION, "node ", step.node, ": function '", step.name,
       "' failed: memory for scratch ran out, or a task of it failed");
}

}  // namespace

Executor::Executor(Model& model)
    : model_(model),
      stream_(model.device() == nullptr ? nullptr : std::make_unique<DeviceStream>(*model.device())),
      memory_(stream_.get()),
      scratch_(stream_ == nullptr ? nullptr : std::make_unique<DeviceScratch>(stream_->device())),
      faults_(stream_ == nullptr ? nullptr : std::make_unique<DeviceFaults>(stream_->device())),
      buffers_(stream_ == nullptr ? BufferPool::Create() : BufferPool::Create(BufferPool::Kind::kDevice, *stream_)),
      host_buffers_(stream_ == nullptr ? nullptr : BufferPool::Create(BufferPool::Kind::kPinned, *stream_)),
      strings_(host_buffers()),
      frames_(model.program().functions.size()) {
  if (stream_ == nullptr) graphs_.reason = "the model runs on the CPU";
}

Executor::~Executor() {
  // Work that still runs may use what goes now.
  if (stream_ != nullptr) stream_->device().Try(&DeviceLibrary::synchronize, stream_->handle());
}

bool Executor::HasFault() const { return faults_ != nullptr && faults_->Any(); }

void Executor::ThrowFault() {
  stream_->Synchronize();
  faults_->Throw(model_.program());
}

Frame& Executor::FrameOf(int32_t function, std::span<const int64_t> input_extents) {
  auto& frames = frames_[static_cast<size_t>(function)];
  const auto found = std::find_if(frames.begin(), frames.end(), [&](const auto& frame) {
    return std::ranges::equal(frame->input_extents(), input_extents);
  });
  if (found != frames.end()) {
    frames.splice(frames.begin(), frames, found);
  } else {
    frames.push_front(model_.NewFrame(function, input_extents));
    if (frames.size() > kMostFrames) frames.pop_back();
  }
  return *frames.front();
}

Frame& Executor::Enter(int32_t function, std::span<const int64_t> input_extents, size_t depth) {
  Frame& frame = FrameOf(function, input_extents);
  while (arenas_.size() <= depth) arenas_.push_back(std::make_unique<Arena>(model_.device()));
  arenas_[depth]->Reserve(frame.plan()->arena_bytes);
  frame.SetArena(arenas_[depth]->data());
  return frame;
}

void Executor::Execute(Frame& frame, size_t depth, Profile* profile) {
  try {
    if (profile != nullptr) {
      stream_ == nullptr ? RunProfiled(frame, depth, *profile) : RunTimed(frame, depth, *profile);
    } else if (stream_ == nullptr || depth > 0 || !RunGraph(frame)) {
      RunInstructions(frame, depth);
    }
  } catch (...) {
    frame.ReleaseOwners();
    throw;
  }
}

void Executor::RunInstructions(Frame& frame, size_t depth) {
  for (const Instruction& instruction : frame.instructions()) {
    model_.pool().Expect(instruction.expected);
    RunInstruction(frame, instruction, depth);
  }
}

void Executor::RunProfiled(Frame& frame, size_t depth, Profile& profile) {
  using Clock = std::chrono::steady_clock;
  const Step* first = frame.function().steps.data();
  for (const Instruction& instruction : frame.instructions()) {
    const auto start = Clock::now();
    RunInstruction(frame, instruction, depth);
    profile.nanoseconds[static_cast<size_t>(instruction.step - first)] +=
        std::chrono::nanoseconds(Clock::now() - start).count();
  }
  ++profile.runs;
}

// On a GPU, where steps take no time on the CPU: events between them say when each was done.
void Executor::RunTimed(Frame& frame, size_t depth, Profile& profile) {
  graphs_.reason = "steps are timed";
  const Step* first = frame.function().steps.data();
  std::list<DeviceEvent> events;
  events.emplace_back(stream_->device()).Record(stream_->handle());
  for (const Instruction& instruction : frame.instructions()) {
    RunInstruction(frame, instruction, depth);
    events.emplace_back(stream_->device()).Record(stream_->handle());
  }
  auto event = events.begin();
  for (const Instruction& instruction : frame.instructions()) {
    const auto next = std::next(event);
    profile.nanoseconds[static_cast<size_t>(instruction.step - first)] += event->NanosecondsUntil(*next);
    event = next;
  }
  ++profile.runs;
}

bool Executor::RunGraph(Frame& frame) {
  graphs_.reason = model_.program().data_dependence;
  if (!graphs_.reason.empty()) return false;
  GraphCache& cache = frame.graphs();
  const Function& function = frame.function();
  std::vector<const void*> addresses = {frame.arena()};
  for (const auto* values : {&function.inputs, &function.outputs}) {
    for (const int32_t value : *values) addresses.push_back(frame.tensor(value).data);
  }
  void* graph = cache.Find(addresses);
  if (graph == nullptr) {
    if (!cache.warm) {
      cache.warm = true;
      graphs_.reason = "shapes are run for the first time";
    } else if (!cache.failure.empty()) {
      graphs_.reason = cache.failure;
    } else if (cache.captures_left == 0) {
      graphs_.reason = "addresses of inputs or outputs change from run to run";
    } else {
      --cache.captures_left;
      graph = Capture(frame);
      if (graph != nullptr) cache.Add(stream_->device(), addresses, graph);
    }
    if (graph == nullptr) return false;
  }
  stream_->device().Call(&DeviceLibrary::launch_graph, graph, stream_->handle());
  ++graphs_.replayed;
  return true;
}

// nullptr if the driver does not let these steps be captured; they can still run one by one.
void* Executor::Capture(Frame& frame) {
  void* graph = nullptr;
  try {
    DeviceStream::Capture capture(*stream_);
    RunInstructions(frame, 0);
    graph = capture.End();
  } catch (const Error& error) {
    graphs_.reason = frame.graphs().failure = Text("it cannot be captured: ", error.what());
    return nullptr;
  }
  ++graphs_.captured;
  return graph;
}

void Executor::RunInstruction(Frame& frame, const Instruction& instruction, size_t depth) {
  if (instruction.function == nullptr) {
    RunStep(frame, *instruction.step, depth);
  } else if (instruction.function(instruction.args) != 0) {
    FailCall(*instruction.step);
  }
}

void Executor::RunStep(Frame& frame, const Step& step, size_t depth) {
  switch (step.kind) {
    case StepKind::kCall:
      RunCall(frame, step);
      break;
    case StepKind::kView:
      RunView(frame, step);
      break;
    case StepKind::kBuiltin:
      RunBuiltin(frame, step);
      break;
    case StepKind::kKernel:
      RunKernel(frame, step);
      break;
    case StepKind::kIf:
      RunIf(frame, step, depth);
      break;
    case StepKind::kLoop:
      RunLoop(frame, step, depth);
      break;
    case StepKind::kCheck:
      if (!Holds(frame.expression(step.expression))) Fail(INGOT_ERROR_EXECUTION, step.message);
      break;
  }
  frame.EvaluateLate(step);
  for (const int32_t value : step.outputs) {
    if (frame.function().values[static_cast<size_t>(value)].late) frame.CompareShape(step, value);
  }
  for (const int32_t value : step.releases) frame.SetOwner(value, BufferRef());
}

void Executor::Allocate(Frame& frame, int32_t value, size_t bytes) {
  BufferRef buffer = buffers_->Allocate(bytes);
  frame.SetPointer(value, buffer.data());
  frame.SetOwner(value, std::move(buffer));
}

void Executor::PrepareOutputs(Frame& frame, const Step& step) {
  for (const int32_t value : step.outputs) {
    if (frame.function().IsComputable(step, value)) Allocate(frame, value, frame.ComputeShape(step, value));
  }
}

void Executor::RunCall(Frame& frame, const Step& step) {
  PrepareOutputs(frame, step);
  frame.FillLateDims(step);
  const bool empty =
      std::all_of(step.outputs.begin(), step.outputs.end(), [&](int32_t v) { return frame.Bytes(v) == 0; });
  if (empty) return;
  if (step.device_function != nullptr) {
    WithContext(Place(step), [&] {
      const size_t pointers = step.inputs.size() + step.outputs.size();
      step.device_function->Launch(*stream_, frame.args(step), pointers, step.dims.size(), faults_->where(),
                                   DeviceFaults::Name(step));
    });
  } else if (step.function(frame.args(step)) != 0) {
    FailCall(step);
  }
}

void Executor::RunView(Frame& frame, const Step& step) {
  const DLTensor& input = frame.tensor(step.inputs[0]);
  for (const Binding& binding : step.bindings) frame.BindSymbol(binding.symbol, input.shape[binding.axis]);
  frame.EvaluateLate(step);
  if (frame.function().values[static_cast<size_t>(step.outputs[0])].late) frame.ComputeShape(step, step.outputs[0]);
  frame.CheckView(step);
}

void Executor::RunBuiltin(Frame& frame, const Step& step) {
  PrepareOutputs(frame, step);
  ::ingot::RunBuiltin(frame, step, memory_);
}

void Executor::RunKernel(Frame& frame, const Step& step) {
  PrepareOutputs(frame, step);
  if (step.host) {
    HostKernelCall(frame, step, *buffers_, *host_buffers_, strings_, workspace_, model_.pool(), *stream_,
                   model_.artifact().weights())
        .RunOnHost();
    return;
  }
  KernelCall call(frame, step, *buffers_, strings_, workspace_, model_.pool());
  if (stream_ == nullptr) {
    call.Run();
    return;
  }
  WithContext(Place(step), [&] { DeviceKernelRun(call, *stream_, *scratch_, workspace_).Run(step, faults_->where()); });
  call.CheckOutputs();
}

void Executor::RunIf(Frame& frame, const Step& step, size_t depth) {
  const bool condition = ReadCondition(frame, step, step.condition, memory_);
  std::vector<TensorRef> inputs;
  for (const int32_t value : condition ? step.inputs : step.else_inputs) inputs.push_back(Ref(frame, value));
  Frame& body = RunFunction(step.bodies[condition ? 0 : 1], inputs, depth + 1);
  for (size_t i = 0; i < step.outputs.size(); ++i) Adopt(frame, step, step.outputs[i], TakeResult(body, i));
  body.ReleaseOwners();
}

void Executor::RunLoop(Frame& frame, const Step& step, size_t depth) { LoopRun(*this, frame, step, depth).Run(); }

Frame& Executor::RunFunction(int32_t function, std::span<const TensorRef> inputs, size_t depth) {
  std::vector<int64_t> extents;
  for (const TensorRef& input : inputs)
    extents.insert(extents.end(), input.tensor->shape, input.tensor->shape + input.tensor->ndim);
  Frame& frame = Enter(function, extents, depth);
  const Function& body = frame.function();
  for (size_t i = 0; i < inputs.size(); ++i) {
    frame.SetPointer(body.inputs[i], inputs[i].tensor->data);
    frame.SetOwner(body.inputs[i], inputs[i].owner);
  }
  for (size_t o = 0; o < body.outputs.size(); ++o) {
    if (const int32_t root = body.OwnRoot(o); root != kAbsent) Allocate(frame, root, frame.Bytes(root));
  }
  Execute(frame, depth, nullptr);
  return frame;
}

TensorRef Executor::TakeResult(Frame& frame, size_t index) {
  const int32_t output = frame.function().outputs[index];
  const int32_t root = frame.function().values[static_cast<size_t>(output)].root;
  const DLTensor& tensor = frame.tensor(output);
  if (frame.owner(root)) return {&tensor, frame.owner(root)};
  const size_t bytes = frame.Bytes(output);
  BufferRef copy = buffers_->Allocate(bytes);
  memory_.Copy(copy.data(), tensor.data, bytes);
  return {&tensor, std::move(copy)};
}

void Executor::Adopt(Frame& frame, const Step& step, int32_t value, TensorRef result) {
  const DLTensor& tensor = *result.tensor;
  const bool late = frame.function().values[static_cast<size_t>(value)].late;
  if (late) {
    frame.BindShape(step, value, {tensor.shape, static_cast<size_t>(tensor.ndim)});
  } else if (!std::equal(tensor.shape, tensor.shape + tensor.ndim, frame.tensor(value).shape)) {
    frame.FailShape(step, value, {tensor.shape, static_cast<size_t>(tensor.ndim)});
  }
  frame.SetPointer(value, result.owner.data());
  frame.SetOwner(value, std::move(result.owner));
}

}  // namespace ingot
