#include "executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "builtins.h"
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
    : model_(model), buffers_(BufferPool::Create()), frames_(model.program().functions.size()) {}

Frame& Executor::Enter(int32_t function, std::span<const int64_t> input_extents, size_t depth) {
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
  Frame& frame = *frames.front();
  while (arenas_.size() <= depth) arenas_.push_back(std::make_unique<Arena>());
  arenas_[depth]->Reserve(frame.plan()->arena_bytes);
  frame.SetArena(arenas_[depth]->data());
  return frame;
}

void Executor::Execute(Frame& frame, size_t depth, Profile* profile) {
  try {
    profile == nullptr ? RunInstructions(frame, depth) : RunProfiled(frame, depth, *profile);
  } catch (...) {
    frame.ReleaseOwners();
    throw;
  }
}

void Executor::RunInstructions(Frame& frame, size_t depth) {
  for (const Instruction& instruction : frame.instructions()) RunInstruction(frame, instruction, depth);
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
  if (!empty && step.function(frame.args(step)) != 0) FailCall(step);
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
  ::ingot::RunBuiltin(frame, step);
}

void Executor::RunKernel(Frame& frame, const Step& step) {
  PrepareOutputs(frame, step);
  KernelCall(frame, step, *buffers_, strings_, workspace_, model_.pool()).Run();
}

void Executor::RunIf(Frame& frame, const Step& step, size_t depth) {
  const bool condition = ReadCondition(frame, step, step.condition);
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
  std::memcpy(copy.data(), tensor.data, bytes);
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
