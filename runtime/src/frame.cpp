#include "frame.h"

#include <algorithm>

#include "builtins.h"

namespace ingot {
namespace {

// Less is read soon enough when it is needed.
constexpr size_t kLeastExpected = 256 << 10;

}  // namespace

Frame::Frame(const Function& function, const FrameMemory& memory, std::span<const TensorInfo> names,
             std::span<const Dimension> dimensions, std::span<const int64_t> input_extents)
    : function_(function),
      nothing_(memory.nothing),
      input_extents_(input_extents.begin(), input_extents.end()),
      symbols_(function.symbols.size(), kUndefinedInteger),
      expressions_(function.expressions.size(), kUndefinedInteger),
      extents_(function.extents),
      sizes_(function.values.size()),
      tensors_(function.values.size()),
      owners_(function.values.size()),
      args_(function.args) {
  for (size_t v = 0; v < tensors_.size(); ++v) {
    const Value& value = function.values[v];
    tensors_[v] = {nothing_,
                   memory.device,
                   static_cast<int32_t>(value.shape.size()),
                   value.dtype->type,
                   extents_.data() + value.extents,
                   nullptr,
                   0};
  }
  BindInputs(names, dimensions);
  for (const int32_t value : function.weights) {
    SetEarlyShape(value);
    const auto weight = static_cast<size_t>(function.values[static_cast<size_t>(value)].slot);
    SetPointer(value, const_cast<std::byte*>(memory.weights[weight]));
  }
  RunEarlySteps();
  for (const DimensionArgument& dim : function.dims) args_[dim.position] = expression(dim.expression);
  for (const auto& pointers : function.pointers) {
    for (const size_t position : pointers) {
      if (args_[position] == 0) args_[position] = reinterpret_cast<intptr_t>(nothing_);
    }
  }
  BuildInstructions();
}

std::span<int64_t> Frame::Shape(int32_t value) {
  const Value& row = function_.values[static_cast<size_t>(value)];
  return {extents_.data() + row.extents, row.shape.size()};
}

size_t Frame::Bytes(int32_t value) const {
  const DLTensor& tensor = tensors_[static_cast<size_t>(value)];
  const size_t element = function_.values[static_cast<size_t>(value)].dtype->bytes;
  return ByteCount({tensor.shape, static_cast<size_t>(tensor.ndim)}, element).value_or(0);
}

void Frame::Evaluate(std::span<const int32_t> expressions) {
  for (const int32_t e : expressions) {
    const auto index = static_cast<size_t>(e);
    expressions_[index] = EvaluateExpression(function_.expressions[index], expressions_, symbols_);
  }
}

void Frame::BindInputs(std::span<const TensorInfo> names, std::span<const Dimension> dimensions) {
  size_t next = 0;
  for (const int32_t value : function_.inputs) {
    for (int64_t& extent : Shape(value)) extent = input_extents_[next++];
  }
  for (const Binding& binding : function_.bindings)
    BindSymbol(binding.symbol, Shape(binding.value)[static_cast<size_t>(binding.axis)]);
  Evaluate(function_.first_expressions);
  for (const int32_t value : function_.inputs) {
    const auto& shape = function_.values[static_cast<size_t>(value)].shape;
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (expression(shape[axis]) != Shape(value)[axis]) FailInput(names, value, axis);
    }
  }
  for (const Binding& binding : function_.bindings) {
    const auto symbol = static_cast<size_t>(binding.symbol);
    if (symbol >= dimensions.size() || dimensions[symbol].maximum == Dimension::kUnbounded ||
        symbols_[symbol] <= dimensions[symbol].maximum)
      continue;
    const Value& value = function_.values[static_cast<size_t>(binding.value)];
    Fail(INGOT_ERROR_INPUT, "input '", names[static_cast<size_t>(value.slot)].name, "' has extent ", symbols_[symbol],
         " where '", dimensions[symbol].name, "' was compiled for at most ", dimensions[symbol].maximum);
  }
}

void Frame::FailInput(std::span<const TensorInfo> names, int32_t value, size_t axis) const {
  const Value& row = function_.values[static_cast<size_t>(value)];
  const int64_t found = extents_[row.extents + axis];
  const Expression& extent = function_.expressions[static_cast<size_t>(row.shape[axis])];
  const int64_t expected = expression(row.shape[axis]);
  if (names.empty()) {
    Fail(INGOT_ERROR_EXECUTION, "function '", function_.name, "' is given extent ", found, " on axis ", axis,
         " of input ", row.slot, ", where its program expects ", expected);
  }
  const TensorInfo& info = names[static_cast<size_t>(row.slot)];
  if (extent.op == Operator::kSymbol) {
    for (const Binding& binding : function_.bindings) {
      if (binding.symbol != extent.operands[0]) continue;
      const Value& origin = function_.values[static_cast<size_t>(binding.value)];
      Fail(INGOT_ERROR_INPUT, "input '", info.name, "' has extent ", found, " where '", info.dims[axis], "' is ",
           expected, " (set by input '", names[static_cast<size_t>(origin.slot)].name, "')");
    }
  }
  if (expected == kUndefinedInteger) {
    Fail(INGOT_ERROR_INPUT, "input '", info.name, "' has extent ", found, " where '", info.dims[axis],
         "' cannot be computed");
  }
  Fail(INGOT_ERROR_INPUT, "input '", info.name, "' has extent ", found, " on axis ", axis, " where '", info.dims[axis],
       "' is ", expected);
}

void Frame::SetEarlyShape(int32_t value) {
  const Value& row = function_.values[static_cast<size_t>(value)];
  const auto shape = Shape(value);
  for (size_t axis = 0; axis < shape.size(); ++axis) shape[axis] = expression(row.shape[axis]);
  if (ByteCount(shape, row.dtype->bytes)) return;
  const bool defined = row.definition >= 0;
  const std::string place =
      defined ? Place(function_.steps[static_cast<size_t>(row.definition)]) : Text("function '", function_.name, "'");
  Fail(INGOT_ERROR_INPUT, "with inputs of these shapes, a result of ", place, " would have shape ", ShapeText(shape),
       ", which cannot be");
}

void Frame::RunEarlySteps() {
  for (const Step& step : function_.steps) {
    if (step.kind == StepKind::kView && step.early) {
      for (const Binding& binding : step.bindings) {
        BindSymbol(binding.symbol, Shape(step.inputs[0])[static_cast<size_t>(binding.axis)]);
      }
    }
    Evaluate(step.early_expressions);
    for (const int32_t value : step.outputs) {
      const Value& row = function_.values[static_cast<size_t>(value)];
      if (row.late) continue;
      SetEarlyShape(value);
      if (row.storage == Storage::kArena) sizes_[static_cast<size_t>(value)] = Bytes(value);
    }
    if (step.kind == StepKind::kView && step.early) CheckView(step);
    if (step.kind == StepKind::kCheck && step.early && !Holds(expression(step.expression)))
      Fail(INGOT_ERROR_INPUT, step.message);
  }
}

void Frame::CheckView(const Step& step) const {
  if (Bytes(step.inputs[0]) == Bytes(step.outputs[0])) return;
  Fail(INGOT_ERROR_EXECUTION, Place(step), ": ", ShapeText(tensor(step.inputs[0])), " of ",
       DTypeText(tensor(step.inputs[0]).dtype), " cannot be seen as ", ShapeText(tensor(step.outputs[0])), " of ",
       DTypeText(tensor(step.outputs[0]).dtype));
}

void Frame::BuildInstructions() {
  const auto at = [&](int32_t value) -> const Value& { return function_.values[static_cast<size_t>(value)]; };
  for (const Step& step : function_.steps) {
    if (step.early && step.late_expressions.empty()) continue;
    const bool complete = step.kind == StepKind::kCall && step.late_dims.empty() && step.releases.empty() &&
                          step.late_expressions.empty() &&
                          std::none_of(step.outputs.begin(), step.outputs.end(), [&](int32_t v) { return at(v).late; });
    const bool empty =
        complete && std::all_of(step.outputs.begin(), step.outputs.end(), [&](int32_t v) { return Bytes(v) == 0; });
    if (empty) continue;  // a call does nothing but write its outputs
    instructions_.push_back({complete ? step.function : nullptr, args(step), &step, {}});
  }
  ExpectWeights();
}

// Twice: what the last steps expect are the first ones, when the function runs again.
void Frame::ExpectWeights() {
  std::span<const std::byte> expected;
  for (int round = 0; round < 2; ++round) {
    for (auto instruction = instructions_.rbegin(); instruction != instructions_.rend(); ++instruction) {
      instruction->expected = expected;
      const std::span<const std::byte> weights = LargestWeight(*instruction->step);
      if (weights.size() >= kLeastExpected) expected = weights;
    }
  }
}

std::span<const std::byte> Frame::LargestWeight(const Step& step) const {
  std::span<const std::byte> largest;
  for (const int32_t value : step.inputs) {
    if (value == kAbsent || function_.values[static_cast<size_t>(value)].storage != Storage::kWeight) continue;
    const size_t bytes = Bytes(value);
    if (bytes > largest.size()) largest = {static_cast<const std::byte*>(tensor(value).data), bytes};
  }
  return largest;
}

void Frame::SetArena(std::byte* arena) {
  if (arena == arena_) return;
  arena_ = arena;
  for (size_t v = 0; v < sizes_.size(); ++v) {
    if (sizes_[v] != 0) SetPointer(static_cast<int32_t>(v), arena + plan_->offsets[v]);
  }
}

void Frame::SetPointer(int32_t root, void* data) {
  if (data == nullptr) data = nothing_;
  for (const int32_t value : function_.views[static_cast<size_t>(root)])
    tensors_[static_cast<size_t>(value)].data = data;
  for (const size_t position : function_.pointers[static_cast<size_t>(root)])
    args_[position] = reinterpret_cast<intptr_t>(data);
}

void Frame::ReleaseOwners() { std::fill(owners_.begin(), owners_.end(), BufferRef()); }

void Frame::BindShape(const Step& step, int32_t value, std::span<const int64_t> shape) {
  const auto extents = Shape(value);
  if (shape.size() != extents.size()) {
    Fail(INGOT_ERROR_EXECUTION, Place(step), ": a result has shape ", ShapeText(shape), ", expected ", extents.size(),
         " dimensions");
  }
  if (!ByteCount(shape, function_.values[static_cast<size_t>(value)].dtype->bytes)) {
    Fail(INGOT_ERROR_EXECUTION, Place(step), ": a result would have shape ", ShapeText(shape), ", which cannot be");
  }
  std::copy(shape.begin(), shape.end(), extents.begin());
  for (const Binding& binding : step.bindings) {
    if (binding.value == value) BindSymbol(binding.symbol, shape[static_cast<size_t>(binding.axis)]);
  }
}

void Frame::EvaluateLate(const Step& step) { Evaluate(step.late_expressions); }

size_t Frame::ComputeShape(const Step& step, int32_t value) {
  const Value& row = function_.values[static_cast<size_t>(value)];
  const auto shape = Shape(value);
  for (size_t axis = 0; axis < shape.size(); ++axis) shape[axis] = expression(row.shape[axis]);
  const auto bytes = ByteCount(shape, row.dtype->bytes);
  if (!bytes)
    Fail(INGOT_ERROR_EXECUTION, Place(step), ": a result would have shape ", ShapeText(shape), ", which cannot be");
  return *bytes;
}

void Frame::CompareShape(const Step& step, int32_t value) const {
  const Value& row = function_.values[static_cast<size_t>(value)];
  for (size_t axis = 0; axis < row.shape.size(); ++axis) {
    if (expression(row.shape[axis]) != extents_[row.extents + axis]) FailShape(step, value, ShapeOf(tensor(value)));
  }
}

void Frame::FailShape(const Step& step, int32_t value, std::span<const int64_t> found) const {
  std::vector<int64_t> expected;
  for (const int32_t e : function_.values[static_cast<size_t>(value)].shape) expected.push_back(expression(e));
  Fail(INGOT_ERROR_EXECUTION, Place(step), ": a result has shape ", ShapeText(found), ", but the program expects ",
       ShapeText(expected));
}

void Frame::FillLateDims(const Step& step) {
  for (const DimensionArgument& dim : step.late_dims) args_[dim.position] = expression(dim.expression);
}

}  // namespace ingot
