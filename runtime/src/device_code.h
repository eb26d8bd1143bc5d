// The code of a CUDA target, loaded onto a GPU (docs/format.md, "CUDA").
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "artifact.h"
#include "device.h"
#include "expression.h"

namespace ingot {

// What a target's "code" says, before it is loaded: the GPUs that it is for.
struct DeviceCodeInfo {
  std::vector<int64_t> architectures;  // of machine code: 80, 90
  int64_t ptx = 0;                     // 0: none
};
DeviceCodeInfo ReadDeviceCodeInfo(const json::Node& code);

// A generated function: launches of kernels that take the same arguments.
class DeviceFunction {
 public:
  // The number of dimensions that its grids refer to.
  size_t symbols() const { return symbols_; }
  // Puts the launches on the stream. `args`: addresses of inputs and outputs, `pointers` of them, then `dims` integers.
  // What they report of their data goes to `fault`, as that of `step`.
  void Launch(const DeviceStream& stream, const int64_t* args, size_t pointers, size_t dims, DeviceFault* fault,
              uint64_t step) const;

 private:
  friend class DeviceCode;
  struct Grid {
    DeviceLaunch launch;
    int32_t extents[3];  // expressions
  };

  std::vector<Expression> expressions_;
  std::vector<Grid> launches_;
  size_t symbols_ = 0;
  bool checks_ = false;  // kernels take where to report as two more arguments
};

class DeviceCode {
 public:
  // Loads the fatbin. The segment's checksum has been checked.
  DeviceCode(const Device& device, const Artifact& artifact, const json::Node& code);
  ~DeviceCode();
  DeviceCode(const DeviceCode&) = delete;
  DeviceCode& operator=(const DeviceCode&) = delete;

  const Device& device() const { return device_; }
  // A function by its name, or nullptr.
  const DeviceFunction* Find(std::string_view name) const;

 private:
  DeviceFunction ReadFunction(const json::Node& node) const;

  const Device& device_;
  void* module_ = nullptr;
  std::vector<std::pair<std::string_view, DeviceFunction>> functions_;  // sorted by name
};

}  // namespace ingot
