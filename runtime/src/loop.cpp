#include "loop.h"

#include <algorithm>
#include <limits>

#include "builtins.h"

namespace ingot {
namespace {

// Room for the scan results of a loop that does not say how often it runs, or says a number that it will not reach.
constexpr int64_t kFirstCapacity = 16;
constexpr int64_t kMostReserved = 4096;

DLTensor Scalar(void* data, const char* dtype, DLDevice device) {
  return {data, device, 0, FindDType(dtype)->type, nullptr, nullptr, 0};
}

}  // namespace

LoopRun::LoopRun(Executor& executor, Frame& frame, const Step& step, size_t depth)
    : executor_(executor),
      frame_(frame),
      step_(step),
      depth_(depth),
      trip_count_(step.trip_count == kAbsent ? std::numeric_limits<int64_t>::max()
                                             : ReadCount(frame, step, step.trip_count, executor.memory_)),
      scalars_(executor.buffers().Allocate(2 * sizeof(int64_t))),
      iteration_tensor_(Scalar(scalars_.data(), "int64", executor.memory_.dlpack())),
      condition_tensor_(Scalar(scalars_.data() + sizeof(int64_t), "bool", executor.memory_.dlpack())),
      carried_(step.carried.size()),
      scans_(step.outputs.size() - step.carried.size()) {
  static_assert(sizeof condition_ == 1, "a bool tensor has one byte an element");
  if (step.condition != kAbsent) condition_ = ReadCondition(frame, step, step.condition, executor.memory_);
  for (size_t i = 0; i < carried_.size(); ++i) {
    TensorRef initial = Ref(frame, step.carried[i]);
    carried_[i].tensor = *initial.tensor;
    carried_[i].owner = std::move(initial.owner);
    carried_[i].shape.assign(initial.tensor->shape, initial.tensor->shape + initial.tensor->ndim);
    carried_[i].tensor.shape = carried_[i].shape.data();
  }
}

void LoopRun::Run() {
  while (iteration_ < trip_count_ && condition_) {
    Iterate();
    ++iteration_;
  }
  if (iteration_ == 0) ShapeEmptyScans();
  Finish();
}

std::span<const TensorRef> LoopRun::Inputs() {
  inputs_.clear();
  inputs_.push_back({&iteration_tensor_, BufferRef()});
  inputs_.push_back({&condition_tensor_, BufferRef()});
  for (const Carried& carried : carried_) inputs_.push_back({&carried.tensor, carried.owner});
  for (const int32_t value : step_.inputs) inputs_.push_back(Ref(frame_, value));
  return inputs_;
}

void LoopRun::StoreScalars() {
  executor_.memory_.Store(iteration_tensor_.data, &iteration_, sizeof iteration_);
  executor_.memory_.Store(condition_tensor_.data, &condition_, sizeof condition_);
}

void LoopRun::Iterate() {
  StoreScalars();
  Frame& body = executor_.RunFunction(step_.bodies[0], Inputs(), depth_ + 1);
  for (size_t i = 0; i < scans_.size(); ++i) Append(body, i);
  const bool condition = ReadCondition(body, step_, body.function().outputs[0], executor_.memory_);
  Carry(body);
  condition_ = condition;
  body.ReleaseOwners();
  inputs_.clear();
}

void LoopRun::Carry(Frame& body) {
  // All results are taken before one is replaced: they may show the memory of one another's inputs.
  std::vector<TensorRef> results;
  results.reserve(carried_.size());
  for (size_t i = 0; i < carried_.size(); ++i) results.push_back(executor_.TakeResult(body, 1 + i));
  for (size_t i = 0; i < carried_.size(); ++i) {
    Carried& carried = carried_[i];
    carried.shape.assign(results[i].tensor->shape, results[i].tensor->shape + results[i].tensor->ndim);
    carried.owner = std::move(results[i].owner);
    carried.tensor.data = carried.owner.data();
    carried.tensor.shape = carried.shape.data();
  }
}

void LoopRun::Append(Frame& body, size_t index) {
  Scan& scan = scans_[index];
  const int32_t output = body.function().outputs[1 + carried_.size() + index];
  const DLTensor& result = body.tensor(output);
  const std::span<const int64_t> shape(result.shape, static_cast<size_t>(result.ndim));
  if (iteration_ == 0) {
    scan.shape.assign(shape.begin(), shape.end());
    scan.bytes = body.Bytes(output);
  } else if (!std::ranges::equal(scan.shape, shape)) {
    Fail(INGOT_ERROR_EXECUTION, Place(step_), ": scan result ", index, " has shape ", ShapeText(shape),
         " in iteration ", iteration_, ", and had ", ShapeText(scan.shape), " before");
  }
  const auto offset = [&](int64_t count) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(scan.bytes, static_cast<size_t>(count), &bytes))
      Fail(INGOT_ERROR_MEMORY, Place(step_), ": its results do not fit into memory");
    return bytes;
  };
  if (iteration_ == scan.capacity) {
    scan.capacity = iteration_ == 0 ? (trip_count_ <= kMostReserved ? trip_count_ : kFirstCapacity) : 2 * scan.capacity;
    BufferRef larger = executor_.buffers().Allocate(offset(scan.capacity));
    if (scan.buffer) executor_.memory_.Copy(larger.data(), scan.buffer.data(), offset(iteration_));
    scan.buffer = std::move(larger);
  }
  executor_.memory_.Copy(scan.buffer.data() + offset(iteration_), result.data, scan.bytes);
}

// A loop that did not run once still gives scan results: no rows, of the shape that the body would have given.
void LoopRun::ShapeEmptyScans() {
  if (scans_.empty()) return;
  std::vector<int64_t> extents;
  for (const TensorRef& input : Inputs())
    extents.insert(extents.end(), input.tensor->shape, input.tensor->shape + input.tensor->ndim);
  const Frame& body = executor_.Enter(step_.bodies[0], extents, depth_ + 1);
  for (size_t i = 0; i < scans_.size(); ++i) {
    const int32_t output = body.function().outputs[1 + carried_.size() + i];
    const DLTensor& result = body.tensor(output);
    const bool late = body.function().values[static_cast<size_t>(output)].late;
    scans_[i].shape.assign(static_cast<size_t>(result.ndim), 0);
    if (!late) std::copy_n(result.shape, result.ndim, scans_[i].shape.begin());
    scans_[i].buffer = executor_.buffers().Allocate(0);
  }
}

void LoopRun::Finish() {
  for (size_t i = 0; i < carried_.size(); ++i) {
    Carried& carried = carried_[i];
    if (!carried.owner) {  // never replaced, and someone else's memory
      const size_t bytes = frame_.Bytes(step_.carried[i]);
      carried.owner = executor_.buffers().Allocate(bytes);
      executor_.memory_.Copy(carried.owner.data(), carried.tensor.data, bytes);
    }
    executor_.Adopt(frame_, step_, step_.outputs[i], {&carried.tensor, std::move(carried.owner)});
  }
  for (size_t i = 0; i < scans_.size(); ++i) {
    std::vector<int64_t> shape = {iteration_};
    shape.insert(shape.end(), scans_[i].shape.begin(), scans_[i].shape.end());
    const int32_t value = step_.outputs[carried_.size() + i];
    const DLTensor stacked = {nullptr,
                              executor_.memory_.dlpack(),
                              static_cast<int32_t>(shape.size()),
                              frame_.tensor(value).dtype,
                              shape.data(),
                              nullptr,
                              0};
    executor_.Adopt(frame_, step_, value, {&stacked, std::move(scans_[i].buffer)});
  }
}

}  // namespace ingot
