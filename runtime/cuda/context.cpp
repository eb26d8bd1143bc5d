#include "context.h"

#include <limits>

#include "cuda/registry.h"

namespace ingot::cuda {

Context::Context(const DeviceKernelCall& call, cudaStream_t stream, int capability, int multiprocessors)
    : call_(call), stream_(stream), capability_(capability), multiprocessors_(multiprocessors) {
  inputs_ = {call.inputs, call.input_count};
  // Outputs are known by their index: the base class only counts them.
  static constexpr int32_t kIndices[kMostTensors] = {};
  outputs_ = {kIndices, call.output_count};
  dims_ = {call.dims, call.dim_count};
  ints_ = {call.ints, call.int_count};
  floats_ = {call.floats, call.float_count};
}

void* Context::DeviceScratch(size_t bytes) {
  void* memory = call_.scratch(call_.caller, bytes);
  if (memory == nullptr) throw CallbackFailed();
  return memory;
}

// A host function prepares launches; what is worth threads is the GPU's.
void Context::ParallelFor(int64_t count, int64_t /*grain*/, FunctionRef<void(int64_t, int64_t)> body) {
  if (count > 0) body(0, count);
}

char* Context::AllocateText(size_t /*bytes*/) { FailKernel("there are no strings on a GPU"); }

const DLTensor* Context::Prepare(size_t index, const std::span<const int64_t>* shape) {
  const DLTensor* tensor = call_.prepare(call_.caller, index, shape == nullptr ? nullptr : shape->data(),
                                         shape == nullptr ? 0 : shape->size());
  if (tensor == nullptr) throw CallbackFailed();
  return tensor;
}

void* Context::AllocateScratch(size_t count, size_t size) {
  if (count > std::numeric_limits<size_t>::max() / 2 / size)
    Fail(INGOT_ERROR_MEMORY, "cannot allocate ", count, " × ", size, " bytes of scratch memory");
  void* memory = call_.host_scratch(call_.caller, count * size);
  if (memory == nullptr) throw CallbackFailed();
  return memory;
}

}  // namespace ingot::cuda
