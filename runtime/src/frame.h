// A function at one set of input shapes: its extents, its memory and the arguments of its calls, all computed once, so
// that running it again is a loop over calls.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "buffer.h"
#include "device_graph.h"
#include "planner.h"
#include "program.h"

namespace ingot {

// A tensor that one function hands to another.
struct TensorRef {
  const DLTensor* tensor;
  BufferRef owner;  // empty if the memory is someone else's
};

// Where the tensors of a frame are that it is not given.
struct FrameMemory {
  std::span<const std::byte* const> weights;  // addresses, by the index in the artifact
  DLDevice device;
  void* nothing;  // what tensors without bytes point at; some code expects any address but NULL
};

// What to do next: a call whose arguments are complete, or a step that needs more.
struct Instruction {
  GeneratedFunction function;  // nullptr if the executor has to look at the step
  const int64_t* args;
  const Step* step;
  std::span<const std::byte> expected;  // the weights of the next step that has many
};

class Frame {
 public:
  // `names`: those of the inputs, for messages; `dimensions` bound the first symbols (both of the main function alone).
  Frame(const Function& function, const FrameMemory& memory, std::span<const TensorInfo> names,
        std::span<const Dimension> dimensions, std::span<const int64_t> input_extents);
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;

  const Function& function() const { return function_; }
  std::span<const int64_t> input_extents() const { return input_extents_; }
  std::span<const Instruction> instructions() const { return instructions_; }
  // Bytes of each planned value; 0 for others.
  std::span<const size_t> sizes() const { return sizes_; }
  // Bytes of a value whose shape is known.
  size_t Bytes(int32_t value) const;
  const MemoryPlan* plan() const { return plan_.get(); }
  void SetPlan(std::shared_ptr<const MemoryPlan> plan) { plan_ = std::move(plan); }
  // Points the planned values at an arena; cheap if it has not moved.
  void SetArena(std::byte* arena);

  std::byte* arena() const { return arena_; }
  // What was captured of this frame on a GPU.
  GraphCache& graphs() { return graphs_; }

  const DLTensor& tensor(int32_t value) const { return tensors_[static_cast<size_t>(value)]; }
  // Points a root value and its views, and the arguments that are their addresses, at memory.
  void SetPointer(int32_t root, void* data);
  void SetOwner(int32_t root, BufferRef owner) { owners_[static_cast<size_t>(root)] = std::move(owner); }
  BufferRef& owner(int32_t root) { return owners_[static_cast<size_t>(root)]; }
  void ReleaseOwners();

  // Data-dependent shapes. Gives a late value its shape: binds symbols and compares the extents that are known.
  void BindShape(const Step& step, int32_t value, std::span<const int64_t> shape);
  void BindSymbol(int32_t symbol, int64_t extent) { symbols_[static_cast<size_t>(symbol)] = extent; }
  // Computes the expressions that a step makes known.
  void EvaluateLate(const Step& step);
  // Computes the shape of a late value from expressions that are all known; returns its size in bytes.
  size_t ComputeShape(const Step& step, int32_t value);
  void CompareShape(const Step& step, int32_t value) const;
  [[noreturn]] void FailShape(const Step& step, int32_t value, std::span<const int64_t> found) const;
  // A view whose shape was computed while running: the same bytes?
  void CheckView(const Step& step) const;
  void FillLateDims(const Step& step);
  int64_t symbol(int32_t index) const { return symbols_[static_cast<size_t>(index)]; }
  int64_t expression(int32_t index) const { return expressions_[static_cast<size_t>(index)]; }
  const int64_t* args(const Step& step) const { return args_.data() + step.args; }

 private:
  void BindInputs(std::span<const TensorInfo> names, std::span<const Dimension> dimensions);
  void Evaluate(std::span<const int32_t> expressions);
  void RunEarlySteps();
  void SetEarlyShape(int32_t value);
  void BuildInstructions();
  void ExpectWeights();
  std::span<const std::byte> LargestWeight(const Step& step) const;
  std::span<int64_t> Shape(int32_t value);
  [[noreturn]] void FailInput(std::span<const TensorInfo> names, int32_t value, size_t axis) const;

  const Function& function_;
  void* const nothing_;
  std::vector<int64_t> input_extents_;
  std::vector<int64_t> symbols_;
  std::vector<int64_t> expressions_;
  std::vector<int64_t> extents_;
  std::vector<size_t> sizes_;
  std::vector<DLTensor> tensors_;
  std::vector<BufferRef> owners_;
  std::vector<int64_t> args_;
  std::vector<Instruction> instructions_;
  std::shared_ptr<const MemoryPlan> plan_;
  std::byte* arena_ = nullptr;
  GraphCache graphs_;
};

}  // namespace ingot
