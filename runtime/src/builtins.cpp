#include "builtins.h"

#include <algorithm>
#include <vector>

namespace ingot {
namespace {

void RunShape(Frame& frame, const Step& step, const TensorMemory& memory) {
  const int32_t output = step.outputs[0];
  if (frame.Bytes(output) != step.dims.size() * sizeof(int64_t)) {
    Fail(INGOT_ERROR_EXECUTION, Place(step), ": ", step.dims.size(), " dimensions do not fill ",
         ShapeText(frame.tensor(output)));
  }
  if (memory.device() == nullptr) {
    auto* elements = static_cast<int64_t*>(frame.tensor(output).data);
    for (size_t i = 0; i < step.dims.size(); ++i) elements[i] = frame.expression(step.dims[i]);
    return;
  }
  std::vector<int64_t> elements;
  elements.reserve(step.dims.size());
  for (const int32_t dim : step.dims) elements.push_back(frame.expression(dim));
  // In pieces that travel with the call, so that a graph can hold them.
  constexpr size_t kPiece = kMostStored / sizeof(int64_t);
  for (size_t i = 0; i < elements.size(); i += kPiece) {
    memory.Store(static_cast<int64_t*>(frame.tensor(output).data) + i, elements.data() + i,
                 std::min(kPiece, elements.size() - i) * sizeof(int64_t));
  }
}

void RunToDims(Frame& frame, const Step& step, const TensorMemory& memory) {
  const DLTensor& input = frame.tensor(step.inputs[0]);
  const int64_t count = input.ndim == 0 ? 1 : input.shape[0];
  if (count != static_cast<int64_t>(step.ints.size())) {
    Fail(INGOT_ERROR_EXECUTION, Place(step), ": ", count, " integers were given where ", step.ints.size(),
         " are expected");
  }
  std::vector<std::byte> copy;
  const auto* bytes = static_cast<const std::byte*>(input.data);
  if (memory.device() != nullptr) {
    copy.resize(frame.Bytes(step.inputs[0]));
    memory.Load(copy.data(), input.data, copy.size());
    bytes = copy.data();
  }
  for (const Binding& binding : step.bindings) {
    const bool wide = input.dtype.bits == 64;
    frame.BindSymbol(binding.symbol, wide ? reinterpret_cast<const int64_t*>(bytes)[binding.axis]
                                          : reinterpret_cast<const int32_t*>(bytes)[binding.axis]);
  }
}

void RunCopy(Frame& frame, const Step& step, const TensorMemory& memory) {
  const size_t bytes = frame.Bytes(step.outputs[0]);
  if (frame.Bytes(step.inputs[0]) != bytes) {
    Fail(INGOT_ERROR_EXECUTION, Place(step), ": ", ShapeText(frame.tensor(step.inputs[0])), " cannot be copied to ",
         ShapeText(frame.tensor(step.outputs[0])));
  }
  memory.Copy(frame.tensor(step.outputs[0]).data, frame.tensor(step.inputs[0]).data, bytes);
}

template <typename T>
T ReadElement(const Frame& frame, const Step& step, int32_t value, const char* what, const TensorMemory& memory) {
  if (frame.Bytes(value) != sizeof(T)) {
    Fail(INGOT_ERROR_EXECUTION, Place(step), ": the ", std::string_view(what), " has shape ",
         ShapeText(frame.tensor(value)), "; it takes one element");
  }
  T element;
  memory.Load(&element, frame.tensor(value).data, sizeof element);
  return element;
}

}  // namespace

std::string Place(const Step& step) {
  return step.node.empty() ? Text("step '", step.name, "'") : Text("node ", step.node);
}

void RunBuiltin(Frame& frame, const Step& step, const TensorMemory& memory) {
  switch (step.builtin) {
    case Builtin::kShape:
      return RunShape(frame, step, memory);
    case Builtin::kToDims:
      return RunToDims(frame, step, memory);
    case Builtin::kCopy:
      return RunCopy(frame, step, memory);
  }
}

bool ReadCondition(const Frame& frame, const Step& step, int32_t value, const TensorMemory& memory) {
  return ReadElement<uint8_t>(frame, step, value, "condition", memory) != 0;
}

int64_t ReadCount(const Frame& frame, const Step& step, int32_t value, const TensorMemory& memory) {
  return ReadElement<int64_t>(frame, step, value, "trip count", memory);
}

TensorRef Ref(Frame& frame, int32_t value) {
  const int32_t root = frame.function().values[static_cast<size_t>(value)].root;
  return {&frame.tensor(value), frame.owner(root)};
}

}  // namespace ingot
