// The contract between the runtime and a kernel.
//
// A kernel is a pure function of tensors and attributes: it keeps no state, starts no threads and allocates no memory
// of its own, but asks its context. All tensors are on the CPU, C-contiguous and aligned to their elements; `data` of a
// tensor without elements is not to be read. A kernel checks what it is given and throws ingot::Error for what does not
// fit; it never reads or writes out of bounds, whatever the data are.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "dtype.h"
#include "error.h"
#include "function_ref.h"

namespace ingot {

class KernelContext {
 public:
  virtual ~KernelContext() = default;

  size_t input_count() const { return inputs_.size(); }
  size_t output_count() const { return outputs_.size(); }
  // An input, or nullptr if it was left out. Required inputs (Arity) are always there.
  const DLTensor* OptionalInput(size_t index) const { return index < inputs_.size() ? inputs_[index] : nullptr; }
  const DLTensor& Input(size_t index) const { return *inputs_[index]; }
  // An output whose shape is known before the kernel runs, with its memory.
  const DLTensor& Output(size_t index) { return *Prepare(index, nullptr); }
  // Gives an output its shape, and memory. If its shape was known before, it has to be this one.
  const DLTensor& AllocateOutput(size_t index, std::span<const int64_t> shape) { return *Prepare(index, &shape); }

  std::span<const int64_t> dims() const { return dims_; }  // integers that are computed while running
  std::span<const int64_t> ints() const { return ints_; }  // attributes
  std::span<const double> floats() const { return floats_; }

  // How many threads the model has.
  virtual int32_t threads() const = 0;
  // Runs body(begin, end) over parts of [0, count) of at least `grain` each, on the model's threads.
  virtual void ParallelFor(int64_t count, int64_t grain, FunctionRef<void(int64_t begin, int64_t end)> body) = 0;

  // Memory for the bytes of strings that an output points at; it lives until the run's results have been handed over.
  // For the thread that the kernel was called on.
  virtual char* AllocateText(size_t bytes) = 0;

  // Uninitialized memory until the kernel returns; for the thread that the kernel was called on.
  template <typename T>
  std::span<T> Scratch(size_t count) {
    return {static_cast<T*>(AllocateScratch(count, sizeof(T))), count};
  }

 protected:
  virtual const DLTensor* Prepare(size_t index, const std::span<const int64_t>* shape) = 0;
  virtual void* AllocateScratch(size_t count, size_t size) = 0;

  std::span<const DLTensor* const> inputs_;
  std::span<const int32_t> outputs_;  // what the implementation knows them by
  std::span<const int64_t> dims_;
  std::span<const int64_t> ints_;
  std::span<const double> floats_;
};

using KernelFunction = void (*)(KernelContext& context);

template <typename... Parts>
[[noreturn]] void FailKernel(const Parts&... parts) {
  Fail(INGOT_ERROR_EXECUTION, parts...);
}

inline std::span<const int64_t> ShapeOf(const DLTensor& tensor) {
  return {tensor.shape, static_cast<size_t>(tensor.ndim)};
}

inline int64_t ElementCount(std::span<const int64_t> shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) {
    if (extent == 0) return 0;
    count *= extent;
  }
  return count;
}
inline int64_t ElementCount(const DLTensor& tensor) { return ElementCount(ShapeOf(tensor)); }

template <typename T>
T* Data(const DLTensor& tensor) {
  return reinterpret_cast<T*>(static_cast<std::byte*>(tensor.data) + tensor.byte_offset);
}

inline size_t ElementBytes(const DLTensor& tensor) { return FindDType(tensor.dtype)->bytes; }

}  // namespace ingot
