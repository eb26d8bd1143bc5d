// Runs functions of a program for one session.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "buffer.h"
#include "device.h"
#include "frame.h"
#include "model.h"
#include "string_tensor.h"
#include "workspace.h"

namespace ingot {

class DeviceFaults;
class DeviceScratch;

// Nanoseconds gathered for each step of the main function.
struct Profile {
  std::vector<int64_t> nanoseconds;
  int64_t runs = 0;
};

class Executor {
 public:
  explicit Executor(Model& model);
  ~Executor();

  // The frame of a function for inputs of these extents. It stays valid until kMostFrames others have been asked for.
  Frame& FrameOf(int32_t function, std::span<const int64_t> input_extents);
  // The same with memory to run in, at a depth of calls (0: the main function).
  Frame& Enter(int32_t function, std::span<const int64_t> input_extents, size_t depth);
  // Runs a frame whose inputs and outputs have been pointed at memory.
  void Execute(Frame& frame, size_t depth, Profile* profile);

  // Where tensors are. Buffers of it are the same memory.
  const TensorMemory& memory() const { return memory_; }
  DeviceStream* stream() { return stream_.get(); }
  BufferPool& buffers() { return *buffers_; }
  // On the CPU, for copies from and to a GPU if tensors are there.
  BufferPool& host_buffers() { return host_buffers_ == nullptr ? *buffers_ : *host_buffers_; }
  const GraphCounts& graphs() const { return graphs_; }
  Workspace& workspace() { return workspace_; }
  StringHeap& strings() { return strings_; }
  // On a GPU: whether work that is done has found data that it does not take.
  bool HasFault() const;
  // Waits, and throws what was found.
  [[noreturn]] void ThrowFault();

 private:
  friend class LoopRun;

  void RunInstructions(Frame& frame, size_t depth);
  void RunTimed(Frame& frame, size_t depth, Profile& profile);
  // Runs the main function as a graph, which is captured now if it is worth it; false if it has to run step by step.
  bool RunGraph(Frame& frame);
  void* Capture(Frame& frame);
  void RunProfiled(Frame& frame, size_t depth, Profile& profile);
  void RunInstruction(Frame& frame, const Instruction& instruction, size_t depth);
  void RunStep(Frame& frame, const Step& step, size_t depth);
  void RunCall(Frame& frame, const Step& step);
  void RunView(Frame& frame, const Step& step);
  void RunBuiltin(Frame& frame, const Step& step);
  void RunKernel(Frame& frame, const Step& step);
  void RunIf(Frame& frame, const Step& step, size_t depth);
  void RunLoop(Frame& frame, const Step& step, size_t depth);
  // Gives late outputs whose shapes can be computed their memory.
  void PrepareOutputs(Frame& frame, const Step& step);
  void Allocate(Frame& frame, int32_t value, size_t bytes);

  // Runs a function on these inputs. Its results are read from the frame that is returned.
  Frame& RunFunction(int32_t function, std::span<const TensorRef> inputs, size_t depth);
  // Result `index` of a function that ran, owned: a buffer is shared where there is one, memory that is the caller's is
  // copied.
  TensorRef TakeResult(Frame& frame, size_t index);
  // Makes a result of a function the value of the step that ran it.
  void Adopt(Frame& frame, const Step& step, int32_t value, TensorRef result);

  Model& model_;
  std::unique_ptr<DeviceStream> stream_;  // nullptr on the CPU
  TensorMemory memory_;
  std::unique_ptr<DeviceScratch> scratch_;
  std::unique_ptr<DeviceFaults> faults_;  // nullptr on the CPU
  BufferPool::Ptr buffers_;
  BufferPool::Ptr host_buffers_;  // nullptr on the CPU
  StringHeap strings_;
  GraphCounts graphs_;
  Workspace workspace_;
  std::vector<std::unique_ptr<Arena>> arenas_;             // one for each depth
  std::vector<std::list<std::unique_ptr<Frame>>> frames_;  // of each function; the one that was used last comes first
};

}  // namespace ingot
