// A loaded model: code, weights and program of one target. Immutable, and shared by its sessions.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "artifact.h"
#include "code_image.h"
#include "device_code.h"
#include "frame.h"
#include "planner.h"
#include "program.h"
#include "thread_pool.h"

namespace ingot {

struct LoadOptions {
  int32_t threads = 0;  // 0: one for each core
  bool verify = false;
  std::string target;  // "": the best
  int32_t device = 0;  // the GPU of a CUDA target
};

// The weights of a program in a GPU's memory.
class DeviceWeights {
 public:
  DeviceWeights(const Device& device, const Artifact& artifact, const Program& program);
  // Addresses by the index in the artifact; nullptr for weights that the program does not have.
  const std::vector<const std::byte*>& addresses() const { return addresses_; }

 private:
  Arena memory_;
  std::vector<const std::byte*> addresses_;
};

class Model {
 public:
  Model(const std::string& path, const LoadOptions& options);

  const Artifact& artifact() const { return artifact_; }
  const Program& program() const { return program_; }
  const std::string& target() const { return target_->name; }
  ThreadPool& pool() { return pool_; }
  // The GPU that it runs on; nullptr for a CPU.
  const Device* device() const { return code_ ? &code_->device() : nullptr; }
  DLDevice dlpack() const { return code_ ? code_->device().dlpack() : DLDevice{kDLCPU, 0}; }

  // A frame of a function for inputs of these extents, with its memory plan.
  std::unique_ptr<Frame> NewFrame(int32_t function, std::span<const int64_t> input_extents);

  // How many of `rows` the main function should be run for at a time, when `whole` is its frame for all of them.
  int64_t RowsAtATime(const Frame& whole, int64_t rows) const;

  // The bytes of the main function's arena when the dimensions have these extents.
  size_t ArenaBytes(std::span<const int64_t> dims);

 private:
  // The extents of the main function's inputs when the dimensions have these.
  std::vector<int64_t> InputExtents(std::span<const int64_t> dims) const;
  // The same for the rows that it is run for at a time.
  std::vector<int64_t> InputExtentsAtATime(std::span<const int64_t> dims) const;
  void PlanAtBounds();
  void LoadCode(int32_t device);

  Artifact artifact_;
  const Target* target_;
  std::optional<CodeImage> image_;  // of a CPU target
  std::optional<DeviceCode> code_;  // of a CUDA target
  Program program_;
  std::optional<DeviceWeights> device_weights_;
  std::vector<const std::byte*> mapped_weights_;
  FrameMemory memory_{};          // of frames
  std::vector<PlanCache> plans_;  // of each function
  ThreadPool pool_;
};

}  // namespace ingot
