// The mutable part of running a model: inputs, outputs and scratch memory.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "executor.h"
#include "model.h"
#include "states.h"

namespace ingot {

class Session {
 public:
  explicit Session(std::shared_ptr<Model> model);

  void SetInput(size_t index, const DLTensor& tensor);
  void BindOutput(size_t index, const DLTensor* tensor);
  // Where an output that is not bound is given: on the CPU, or on the model's GPU.
  void SetOutputDevice(size_t index, DLDevice device);
  // The caller's stream; nullptr: the session's own.
  void SetStream(void* stream);
  void* Stream();
  void Synchronize();
  const GraphCounts& graphs() const { return executor_.graphs(); }
  void Run();
  const DLTensor& Output(size_t index) const;
  DLManagedTensorVersioned* TakeOutput(size_t index);
  void SetProfiling(bool enabled);
  // What is remembered from run to run.
  States& states() { return states_; }
  const std::shared_ptr<Model>& model() const { return model_; }
  const Profile& profile() const { return profile_; }

  // Held while one thread uses the session; a second one gets INGOT_ERROR_BUSY.
  class Use {
   public:
    explicit Use(Session& session);
    ~Use() { session_.busy_.store(false, std::memory_order_release); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Session& session_;
  };

 private:
  struct InputSlot {
    bool set = false;
    void* data = nullptr;
    size_t first_extent = 0;  // where its shape starts in extents_
    BufferRef strings;        // a copy of the elements, if they are strings
    bool on_host = false;     // and the model is on a GPU:
    BufferRef copy;           // where its elements are copied to there, at the same address if it is large enough
  };
  struct OutputSlot {
    DLTensor tensor{};
    std::vector<int64_t> shape;
    std::vector<int64_t> strides;
    BufferRef packed;                  // strings of the last run, until they become `buffer`
    BufferRef buffer;                  // the session's memory, unless the output was taken or is bound
    void* bound = nullptr;             // the caller's memory
    std::vector<int64_t> bound_shape;  // of the caller's memory
    bool is_bound = false;
    bool taken = false;
    bool on_host = true;     // where it is given
    bool asked_host = true;  // and where if it is not bound
    BufferRef staging;       // on the GPU, of an output that is given on the CPU
  };

  void RunOnce();
  void Prepare();
  void RunInPieces();
  void PrepareStates();
  void PointInputs();
  bool Staged(const OutputSlot& output) const { return executor_.memory().device() != nullptr && output.on_host; }
  void CheckTensor(const char* what, const TensorInfo& info, const DLTensor& tensor) const;
  void PointOutputs();
  void PackOutput(size_t index);
  void CollectOutput(size_t index);
  void* Reserve(BufferRef& buffer, BufferPool& pool, size_t bytes);
  bool OverlapsAnInput(const OutputSlot& output, size_t bytes) const;
  void CheckBoundShape(size_t index, const DLTensor& tensor) const;
  size_t Checked(size_t index, size_t count, const char* what) const;

  std::shared_ptr<Model> model_;
  Executor executor_;
  std::vector<InputSlot> inputs_;
  States states_;
  std::vector<int64_t> extents_;  // the shapes of all inputs and states
  std::vector<OutputSlot> outputs_;
  Frame* main_ = nullptr;  // for these extents; nullptr if shapes have changed since the last run
  int64_t rows_ = 0;       // of the batch
  int64_t rows_at_a_time_ = 0;
  bool ran_ = false;
  bool profiling_ = false;
  Profile profile_;
  std::atomic<bool> busy_{false};
};

// What is put on the stream from now on waits for a taken output that is on a GPU, and its memory is not used again
// before.
void AwaitOutput(DLManagedTensorVersioned* output, void* stream);
// Copies a taken output to the host.
void ReadOutput(const DLManagedTensorVersioned& output, void* data, size_t bytes);

}  // namespace ingot
