#include "kernel_call.h"

#include <limits>

#include "builtins.h"

namespace ingot {

KernelCall::KernelCall(Frame& frame, const Step& step, BufferPool& buffers, StringHeap& strings, Workspace& workspace,
                       ThreadPool& pool)
    : frame_(frame), step_(step), buffers_(buffers), strings_(strings), workspace_(workspace), pool_(pool) {
  for (size_t i = 0; i < step.inputs.size(); ++i)
    tensors_[i] = step.inputs[i] == kAbsent ? nullptr : &frame.tensor(step.inputs[i]);
  for (size_t i = 0; i < step.dims.size(); ++i) dim_values_[i] = frame.expression(step.dims[i]);
  for (size_t i = 0; i < step.outputs.size(); ++i) {
    const Value& value = frame.function().values[static_cast<size_t>(step.outputs[i])];
    ready_[i] = !value.late || frame.function().IsComputable(step, step.outputs[i]);
  }
  inputs_ = {tensors_, step.inputs.size()};
  outputs_ = step.outputs;
  dims_ = {dim_values_, step.dims.size()};
  ints_ = step.ints;
  floats_ = step.floats;
}

KernelCall::~KernelCall() {
  for (size_t i = 0; i < scratch_count_; ++i) workspace_.Free(scratch_[i]);
}

void KernelCall::Run() {
  try {
    step_.kernel->run(*this);
  } catch (const Error& error) {
    throw Error(error.status(), Text(Place(step_), ": ", std::string_view(error.what())));
  }
  CheckOutputs();
}

void KernelCall::CheckOutputs() const {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (!ready_[i]) Fail(INGOT_ERROR_INTERNAL, "kernel '", step_.name, "' did not give output ", i, " a shape");
  }
}

int32_t KernelCall::threads() const { return pool_.threads(); }

void KernelCall::ParallelFor(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) {
  pool_.ParallelFor(count, grain, body);
}

const DLTensor* KernelCall::Prepare(size_t index, const std::span<const int64_t>* shape) {
  const int32_t value = outputs_[index];
  const DLTensor& tensor = frame_.tensor(value);
  if (shape == nullptr) {
    if (!ready_[index])
      Fail(INGOT_ERROR_ARTIFACT, "kernel '", step_.name, "' needs to know the shape of its output ", index,
           " before it runs");
    return &tensor;
  }
  if (ready_[index]) {
    if (!std::ranges::equal(*shape, ShapeOf(tensor))) frame_.FailShape(step_, value, *shape);
    return &tensor;
  }
  frame_.BindShape(step_, value, *shape);
  BufferRef buffer = buffers_.Allocate(frame_.Bytes(value));
  frame_.SetPointer(value, buffer.data());
  frame_.SetOwner(value, std::move(buffer));
  ready_[index] = true;
  return &tensor;
}

void* KernelCall::AllocateScratch(size_t count, size_t size) {
  const bool fits = count <= std::numeric_limits<size_t>::max() / 2 / size && scratch_count_ < kMostScratch;
  void* block = fits ? workspace_.Allocate(count * size) : nullptr;
  if (block == nullptr) Fail(INGOT_ERROR_MEMORY, "cannot allocate ", count, " × ", size, " bytes of scratch memory");
  return scratch_[scratch_count_++] = block;
}

}  // namespace ingot
