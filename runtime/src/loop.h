// ONNX's Loop (docs/format.md, "Program").
#pragma once

#include "executor.h"

namespace ingot {

class LoopRun {
 public:
  LoopRun(Executor& executor, Frame& frame, const Step& step, size_t depth);
  void Run();

 private:
  // A tensor that one iteration hands to the next.
  struct Carried {
    DLTensor tensor;
    std::vector<int64_t> shape;
    BufferRef owner;
  };
  // The results of iterations, stacked. Room is for `capacity` of them, and doubles.
  struct Scan {
    std::vector<int64_t> shape;  // of one result
    size_t bytes = 0;            // of one result
    int64_t capacity = 0;
    BufferRef buffer;
  };

  void StoreScalars();
  void Iterate();
  void Carry(Frame& body);
  void Append(Frame& body, size_t index);
  void Finish();
  void ShapeEmptyScans();
  std::span<const TensorRef> Inputs();

  Executor& executor_;
  Frame& frame_;
  const Step& step_;
  const size_t depth_;
  int64_t trip_count_;
  int64_t iteration_ = 0;
  bool condition_ = true;
  // Where the body sees the iteration number and the condition: 8 bytes each.
  BufferRef scalars_;
  DLTensor iteration_tensor_;
  DLTensor condition_tensor_;
  std::vector<Carried> carried_;
  std::vector<Scan> scans_;
  std::vector<TensorRef> inputs_;
};

}  // namespace ingot
