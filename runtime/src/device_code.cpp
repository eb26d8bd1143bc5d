#include "device_code.h"

#include <algorithm>
#include <limits>
#include <string>

namespace ingot {
namespace {

constexpr uint32_t kMostGrid[3] = {2147483647, 65535, 65535};
constexpr int64_t kMostThreads = 1024;    // of a block
constexpr int64_t kMostShared = 1 << 20;  // bytes; the driver says what a GPU has

}  // namespace

DeviceCodeInfo ReadDeviceCodeInfo(const json::Node& code) {
  DeviceCodeInfo info;
  info.architectures = code["architectures"].Map([](const json::Node& node) { return node.Integer(10, 1000); });
  if (const auto ptx = code.Find("ptx"); ptx && !ptx->IsNull()) info.ptx = ptx->Integer(10, 1000);
  return info;
}

void DeviceFunction::Launch(const DeviceStream& stream, const int64_t* args, size_t pointers, size_t dims,
                            DeviceFault* fault, uint64_t step) const {
  std::vector<int64_t> values(expressions_.size());
  const std::span symbols(args + pointers, dims);
  for (size_t e = 0; e < values.size(); ++e) values[e] = EvaluateExpression(expressions_[e], values, symbols);
  std::vector<void*> parameters(pointers + dims);
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i] = const_cast<int64_t*>(args + i);
  if (checks_) {
    parameters.push_back(static_cast<void*>(&fault));
    parameters.push_back(&step);
  }
  for (const Grid& grid : launches_) {
    DeviceLaunch launch = grid.launch;
    bool empty = false;
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t extent = values[static_cast<size_t>(grid.extents[axis])];
      if (extent < 0 || extent > kMostGrid[axis])
        Fail(INGOT_ERROR_EXECUTION, "axis ", axis, " of its grid has extent ", extent, "; at most ", kMostGrid[axis],
             " is possible");
      empty |= extent == 0;
      launch.grid[axis] = static_cast<uint32_t>(extent);
    }
    if (!empty) stream.device().Call(&DeviceLibrary::launch, stream.handle(), &launch, parameters.data());
  }
}

DeviceCode::DeviceCode(const Device& device, const Artifact& artifact, const json::Node& code) : device_(device) {
  const Segment& segment = artifact.segments()[artifact.SegmentIndex(code["segment"], Segment::kCode)];
  const size_t size = code["size"].Size("size");
  if (size > segment.bytes.size())
    code["size"].Fail("the code ends beyond its segment of ", segment.bytes.size(), " bytes");
  const json::Node functions = code["functions"];
  const size_t count = functions.MemberCount();
  if (size == 0 && count > 0) functions.Fail("there are functions, but no code");
  if (size == 0) return;
  device_.Call(&DeviceLibrary::load_module, segment.bytes.data(), size, &module_);
  try {
    for (size_t i = 0; i < count; ++i) functions_.emplace_back(functions.KeyAt(i), ReadFunction(functions.ValueAt(i)));
  } catch (...) {
    device_.Try(&DeviceLibrary::unload_module, module_);
    throw;
  }
  std::ranges::sort(functions_, {}, [](const auto& row) { return row.first; });
}

DeviceCode::~DeviceCode() {
  if (module_ != nullptr) device_.Try(&DeviceLibrary::unload_module, module_);
}

DeviceFunction DeviceCode::ReadFunction(const json::Node& node) const {
  DeviceFunction function;
  const json::Node expressions = node["exprs"];
  constexpr size_t kMostSymbols = 4096;
  const size_t count = expressions.ArraySize();
  for (size_t i = 0; i < count; ++i) {
    function.expressions_.push_back(ReadExpression(expressions.At(i), i, kMostSymbols));
    const Expression& expression = function.expressions_.back();
    if (expression.op == Operator::kSymbol)
      function.symbols_ = std::max(function.symbols_, static_cast<size_t>(expression.operands[0]) + 1);
  }
  if (const auto checks = node.Find("checks")) function.checks_ = checks->Bool();
  const auto three = [](const json::Node& list) {
    if (list.ArraySize() != 3) list.Fail("expected three extents");
  };
  function.launches_ = node["launches"].Map([&](const json::Node& launch) {
    DeviceFunction::Grid grid{};
    three(launch["grid"]);
    three(launch["block"]);
    int64_t threads = 1;
    for (size_t axis = 0; axis < 3; ++axis) {
      grid.extents[axis] = launch["grid"].At(axis).Index(count);
      const int64_t extent = launch["block"].At(axis).Integer(1, kMostThreads);
      grid.launch.block[axis] = static_cast<uint32_t>(extent);
      threads *= extent;
    }
    if (threads > kMostThreads) launch["block"].Fail("a block has at most ", kMostThreads, " threads");
    grid.launch.shared = static_cast<uint32_t>(launch["shared"].Integer(0, kMostShared));
    const std::string kernel(launch["kernel"].String());
    device_.Call(&DeviceLibrary::find_function, module_, kernel.c_str(), grid.launch.shared, &grid.launch.function);
    return grid;
  });
  return function;
}

const DeviceFunction* DeviceCode::Find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(functions_, name, {}, [](const auto& row) { return row.first; });
  return found == functions_.end() || found->first != name ? nullptr : &found->second;
}

}  // namespace ingot
