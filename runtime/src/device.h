// GPUs: the optional library that drives them, one object for each, and streams of work. The CPU is no Device: where
// one may be given, nullptr stands for it.
#pragma once

#include <dlpack/dlpack.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "device_library.h"
#include "error.h"

namespace ingot {

// The architecture of targets that run on a GPU, as artifacts name it.
inline constexpr std::string_view kCuda = "cuda";

inline bool IsHost(DLDevice device) { return device.device_type == kDLCPU || device.device_type == kDLCUDAHost; }
// "the CPU", "GPU 1".
std::string DeviceText(DLDevice device);

// One GPU. It lives as long as the process.
class Device {
 public:
  // Opens a GPU through libingot_cuda. Fails with a sentence that says what is missing: library, driver or GPU.
  static Device& Open(int32_t index);

  Device(const DeviceLibrary& library, int32_t index);

  int32_t index() const { return index_; }
  DLDevice dlpack() const { return {kDLCUDA, index_}; }
  std::string_view name() const { return info_.name; }
  int32_t capability() const { return info_.capability; }
  // "GPU 0 (NVIDIA H100 80GB HBM3, sm_90)".
  const std::string& text() const { return text_; }
  // The address of memory that nobody reads, for tensors without elements.
  void* nothing() const { return nothing_; }

  // nullptr if memory ran out.
  void* TryAllocate(size_t bytes) const;
  // Fails with how much there is.
  void* Allocate(size_t bytes) const;
  void Free(void* memory) const noexcept;
  void* AllocateHost(size_t bytes) const;
  void FreeHost(void* memory) const noexcept;
  [[noreturn]] void FailMemory(size_t bytes) const;

  // A kernel of the library's registry; its row's kernel is nullptr if there is none.
  DeviceKernelRow FindKernel(std::string_view name) const;

  // Calls a function of the table with this device in front, and fails with the library's message if it does.
  template <typename Function, typename... Arguments>
  void Call(Function DeviceLibrary::* function, Arguments... arguments) const {
    Check((library_.*function)(index_, arguments...));
  }
  // As Call, where a failure cannot be told to anybody.
  template <typename Function, typename... Arguments>
  bool Try(Function DeviceLibrary::* function, Arguments... arguments) const noexcept {
    return (library_.*function)(index_, arguments...) == INGOT_OK;
  }
  void Check(int32_t status) const;
  const DeviceLibrary& library() const { return library_; }

 private:
  const DeviceLibrary& library_;
  const int32_t index_;
  DeviceInfo info_{};
  std::string text_;
  void* nothing_ = nullptr;
};

// A mark in a stream.
class DeviceEvent {
 public:
  explicit DeviceEvent(const Device& device);
  ~DeviceEvent();
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;

  const Device& device() const { return device_; }
  void Record(void* stream) { device_.Call(&DeviceLibrary::record, event_, stream); }
  void Wait(void* stream) const { device_.Call(&DeviceLibrary::wait, stream, event_); }
  int64_t NanosecondsUntil(const DeviceEvent& later) const;

 private:
  const Device& device_;
  void* event_ = nullptr;
};

// The work of one session, in order: on a stream of its own, or on the caller's.
class DeviceStream {
 public:
  explicit DeviceStream(const Device& device);
  ~DeviceStream();
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  const Device& device() const { return device_; }
  void* handle() const { return current_; }
  // Later work goes to this stream, behind what is on the one before; nullptr: the session's own again.
  void Use(void* stream);
  // While one lives, work is recorded in a graph instead of done.
  class Capture {
   public:
    explicit Capture(DeviceStream& stream);
    ~Capture();
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
    void* End();

   private:
    DeviceStream& stream_;
    void* const outer_;
    bool open_ = true;
  };
  // Whether a stream was some session's own, and is gone; its work is done then.
  static bool IsGone(void* stream);
  // Later work here waits for what is on `other` now.
  void WaitFor(void* other);

  void Copy(void* to, const void* from, size_t bytes, CopyKind kind) const;
  void Store(void* to, const void* from, size_t bytes) const;
  void Zero(void* to, size_t bytes) const;
  void Synchronize() const { device_.Call(&DeviceLibrary::synchronize, current_); }

 private:
  const Device& device_;
  void* own_ = nullptr;
  void* current_ = nullptr;
  DeviceEvent order_;
};

// The memory that tensors of a session are in, a GPU's or the CPU's, and how bytes move there. Not for what runs at
// every step on a CPU.
class TensorMemory {
 public:
  // nullptr: the CPU's.
  explicit TensorMemory(DeviceStream* stream = nullptr) : stream_(stream) {}

  DeviceStream* stream() const { return stream_; }
  const Device* device() const { return stream_ == nullptr ? nullptr : &stream_->device(); }
  DLDevice dlpack() const { return stream_ == nullptr ? DLDevice{kDLCPU, 0} : device()->dlpack(); }

  // From and to this memory; the ranges may not overlap.
  void Copy(void* to, const void* from, size_t bytes) const;
  // From this memory to the host; waits for it.
  void Load(void* host, const void* from, size_t bytes) const;
  // From the host, where the bytes may change once this returns.
  void Store(void* to, const void* host, size_t bytes) const;
  void Zero(void* to, size_t bytes) const;

 private:
  DeviceStream* stream_;
};

// Whether code for these architectures (80, 90), with PTX for this one (0: none) and later, can run on a GPU: "", or
// "has code for ..., and none for ..." and what would work.
std::string MissingDeviceCode(const Device& device, std::span<const int64_t> architectures, int64_t ptx);

}  // namespace ingot
