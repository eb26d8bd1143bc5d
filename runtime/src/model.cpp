#include "model.h"

#include <algorithm>

#include "machine.h"

namespace ingot {
namespace {

// What tensors without bytes point at on a CPU.
alignas(kTensorAlignment) std::byte g_nothing[kTensorAlignment];
constexpr size_t kDeviceAlignment = 256;
// What a step of a large batch may read and write at a time, for each thread. ResNet-50's 32 images at 8 at a time (58
// MB in its busiest step), 4, 2 and 1 took 0.93, 0.90, 0.92 and 0.99 of the time of all at once with one thread on a
// server's core with 2 MiB of second-level cache; with two threads 4 at a time were best as well (0.92).
constexpr size_t kBytesAtATime = 16 << 20;

int32_t ThreadCount(int32_t requested) {
  constexpr int32_t kMostThreads = 1024;
  if (requested < 0 || requested > kMostThreads) {
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "threads is ", requested, "; it can be 1 to ", kMostThreads,
         ", or 0 for one for each core");
  }
  return requested == 0 ? CoreCount() : requested;
}

}  // namespace

DeviceWeights::DeviceWeights(const Device& device, const Artifact& artifact, const Program& program)
    : memory_(&device), addresses_(artifact.weights().size()) {
  std::vector<bool> used(addresses_.size());
  for (const Function& function : program.functions) {
    for (const int32_t value : function.weights)
      used[static_cast<size_t>(function.values[static_cast<size_t>(value)].slot)] = true;
  }
  size_t bytes = 0;
  std::vector<size_t> offsets(used.size());
  for (size_t i = 0; i < used.size(); ++i) {
    offsets[i] = bytes;
    if (used[i]) bytes += AlignUp(artifact.weights()[i].bytes.size(), kDeviceAlignment);
  }
  if (bytes == 0) return;
  WithContext("the weights", [&] { memory_.Reserve(bytes); });
  const DeviceStream stream(device);
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) continue;
    addresses_[i] = memory_.data() + offsets[i];
    const auto weight = artifact.weights()[i].bytes;
    stream.Copy(memory_.data() + offsets[i], weight.data(), weight.size(), CopyKind::kToDevice);
  }
  stream.Synchronize();
}

Model::Model(const std::string& path, const LoadOptions& options)
    : artifact_(path),
      target_(&artifact_.ChooseTarget(options.target, options.device)),
      pool_(ThreadCount(options.threads)) {
  if (options.verify) artifact_.Verify();
  WithContext(path, [&] {
    artifact_.CheckSegment(artifact_.SegmentIndex(target_->code["segment"], Segment::kCode));
    LoadCode(options.device);
    artifact_.CloseDescriptor();
  });
  plans_ = std::vector<PlanCache>(program_.functions.size());
  PlanAtBounds();
}

void Model::LoadCode(int32_t device) {
  if (target_->architecture == kCuda) {
    Device& gpu = Device::Open(device);
    code_.emplace(gpu, artifact_, target_->code);
    program_ = ReadProgram(artifact_, target_->program, {.device = &*code_});
    device_weights_.emplace(gpu, artifact_, program_);
    memory_ = {device_weights_->addresses(), gpu.dlpack(), gpu.nothing()};
    return;
  }
  image_.emplace(artifact_, target_->code);
  program_ = ReadProgram(artifact_, target_->program, {.image = &*image_});
  for (const Weight& weight : artifact_.weights()) mapped_weights_.push_back(weight.bytes.data());
  memory_ = {mapped_weights_, {kDLCPU, 0}, g_nothing};
}

std::unique_ptr<Frame> Model::NewFrame(int32_t function, std::span<const int64_t> input_extents) {
  const bool is_main = function == 0;
  const Function& body = program_.functions[static_cast<size_t>(function)];
  auto frame = std::make_unique<Frame>(
      body, memory_, is_main ? std::span(artifact_.taken()) : std::span<const TensorInfo>(),
      is_main ? std::span(artifact_.dimensions()) : std::span<const Dimension>(), input_extents);
  frame->SetPlan(plans_[static_cast<size_t>(function)].Get(body, frame->sizes()));
  return frame;
}

std::vector<int64_t> Model::InputExtents(std::span<const int64_t> dims) const {
  const Function& main = program_.functions[0];
  std::vector<int64_t> symbols(main.symbols.size(), kUndefinedInteger);
  std::copy(dims.begin(), dims.end(), symbols.begin());
  std::vector<int64_t> expressions(main.expressions.size(), kUndefinedInteger);
  for (const int32_t e : main.first_expressions) {
    expressions[static_cast<size_t>(e)] =
        EvaluateExpression(main.expressions[static_cast<size_t>(e)], expressions, symbols);
  }
  std::vector<int64_t> extents;
  for (const int32_t input : main.inputs) {
    for (const int32_t e : main.values[static_cast<size_t>(input)].shape)
      extents.push_back(expressions[static_cast<size_t>(e)]);
  }
  return extents;
}

int64_t Model::RowsAtATime(const Frame& whole, int64_t rows) const {
  if (program_.rows == kAbsent || rows <= 1) return rows;
  const Function& main = program_.functions[0];
  size_t busiest = 0;
  for (const Step& step : main.steps) {
    size_t bytes = 0;
    for (const auto* values : {&step.inputs, &step.outputs}) {
      for (const int32_t value : *values) {
        if (value != kAbsent && main.values[static_cast<size_t>(value)].storage != Storage::kWeight)
          bytes += whole.Bytes(value);
      }
    }
    busiest = std::max(busiest, bytes);
  }
  const size_t budget = kBytesAtATime * static_cast<size_t>(std::max(pool_.threads(), 2));
  const auto pieces = static_cast<int64_t>(std::min((busiest + budget - 1) / budget, static_cast<size_t>(rows)));
  return pieces <= 1 ? rows : (rows + pieces - 1) / pieces;
}

std::vector<int64_t> Model::InputExtentsAtATime(std::span<const int64_t> dims) const {
  std::vector<int64_t> whole = InputExtents(dims);
  if (program_.rows == kAbsent) return whole;
  std::vector<int64_t> some(dims.begin(), dims.end());
  int64_t& rows = some[static_cast<size_t>(program_.rows)];
  const Frame frame(program_.functions[0], memory_, artifact_.taken(), artifact_.dimensions(), whole);
  rows = RowsAtATime(frame, rows);
  return InputExtents(some);
}

size_t Model::ArenaBytes(std::span<const int64_t> dims) {
  if (dims.size() != artifact_.dimensions().size()) {
    Fail(INGOT_ERROR_INVALID_ARGUMENT, "the model has ", artifact_.dimensions().size(), " dimensions, ", dims.size(),
         " were given");
  }
  return NewFrame(0, InputExtentsAtATime(dims))->plan()->arena_bytes;
}

// When every dimension is bounded, one plan at the bounds serves all smaller shapes, so that shapes which change from
// run to run (a growing cache) are not planned again and again.
void Model::PlanAtBounds() {
  std::vector<int64_t> bounds;
  for (const Dimension& dimension : artifact_.dimensions()) {
    if (dimension.maximum == Dimension::kUnbounded) return;
    bounds.push_back(dimension.maximum);
  }
  if (bounds.empty()) return;
  try {
    const Frame frame(program_.functions[0], memory_, artifact_.taken(), artifact_.dimensions(),
                      InputExtentsAtATime(bounds));
    plans_[0].SetBound(std::make_shared<MemoryPlan>(PlanMemory(program_.functions[0], frame.sizes())));
  } catch (const Error&) {
    // The bounds may exclude one another, or a shape may shrink as a dimension grows: then shapes are planned as they
    // come.
  }
}

}  // namespace ingot
