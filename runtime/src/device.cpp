#include "device.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "buffer.h"

namespace ingot {
namespace {

constexpr const char* kLibraryName = "libingot_cuda.so";

// Where libingot_cuda may be, in order: what the environment says alone; or beside this library, or wherever the loader
// finds it.
std::vector<std::string> Candidates() {
  if (const char* named = std::getenv("INGOT_CUDA_LIBRARY"); named != nullptr && *named != '\0') return {named};
  std::vector<std::string> candidates;
  Dl_info self{};
  if (::dladdr(reinterpret_cast<const void*>(&ingot_version), &self) != 0 && self.dli_fname != nullptr) {
    const std::string_view path = self.dli_fname;
    if (const size_t slash = path.rfind('/'); slash != std::string_view::npos)
      candidates.push_back(Text(path.substr(0, slash + 1), kLibraryName));
  }
  candidates.emplace_back(kLibraryName);
  return candidates;
}

const DeviceLibrary& Load(const std::vector<std::string>& candidates) {
  std::string looked;
  for (const std::string& candidate : candidates) {
    void* handle = ::dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const char* reason = ::dlerror();
      looked += Text(looked.empty() ? "" : "; ", std::string_view(reason == nullptr ? candidate.c_str() : reason));
      continue;
    }
    const auto entry = reinterpret_cast<DeviceLibraryEntry>(::dlsym(handle, kDeviceLibraryEntry));
    if (entry == nullptr)
      Fail(INGOT_ERROR_TARGET, candidate, " is not a libingot_cuda that this libingot knows: it has no '",
           kDeviceLibraryEntry, "'");
    const DeviceLibrary* library = entry();
    if (library->struct_size < sizeof(DeviceLibrary))
      Fail(INGOT_ERROR_TARGET, candidate, " is older than this libingot; both come from one build");
    return *library;
  }
  Fail(INGOT_ERROR_TARGET, "CUDA targets need libingot_cuda, an optional library that was not found (", looked,
       "); put it beside libingot, or say where it is with INGOT_CUDA_LIBRARY");
}

}  // namespace

Device& Device::Open(int32_t index) {
  static std::mutex mutex;
  static std::map<std::vector<std::string>, const DeviceLibrary*> libraries;
  static std::map<std::pair<const DeviceLibrary*, int32_t>, std::unique_ptr<Device>>& devices =
      *new std::map<std::pair<const DeviceLibrary*, int32_t>, std::unique_ptr<Device>>;  // outputs may outlive statics
  const std::lock_guard lock(mutex);
  std::vector<std::string> candidates = Candidates();
  const DeviceLibrary*& library = libraries[candidates];
  if (library == nullptr) library = &Load(candidates);
  const auto check = [&](int32_t status) {
    if (status != INGOT_OK) throw Error(static_cast<ingot_status>(status), library->last_error());
  };
  int32_t count = 0;
  check(library->count(&count));
  if (index < 0 || index >= count)
    Fail(INGOT_ERROR_TARGET, "there is no GPU ", index, "; the driver shows ", count,
         count == 0 ? " (CUDA_VISIBLE_DEVICES can hide them)" : "");
  auto& device = devices[{library, index}];
  if (device == nullptr) device = std::make_unique<Device>(*library, index);
  return *device;
}

Device::Device(const DeviceLibrary& library, int32_t index) : library_(library), index_(index) {
  Call(&DeviceLibrary::info, &info_);
  info_.name[sizeof info_.name - 1] = '\0';
  text_ = Text("GPU ", index, " (", name(), ", sm_", capability(), ")");
  nothing_ = Allocate(kTensorAlignment);
}

void Device::Check(int32_t status) const {
  if (status != INGOT_OK) throw Error(static_cast<ingot_status>(status), Text(text_, ": ", library_.last_error()));
}

void* Device::TryAllocate(size_t bytes) const {
  void* memory = nullptr;
  const int32_t status = library_.allocate(index_, bytes, &memory);
  if (status == INGOT_ERROR_MEMORY) return nullptr;
  Check(status);
  return memory;
}

void Device::FailMemory(size_t bytes) const {
  uint64_t free = 0;
  Call(&DeviceLibrary::free_memory, &free);
  Fail(INGOT_ERROR_MEMORY, text_, ": cannot allocate ", bytes, " bytes; ", free, " of its ", info_.memory, " are free");
}

void* Device::Allocate(size_t bytes) const {
  void* memory = TryAllocate(bytes);
  if (memory == nullptr) FailMemory(bytes);
  return memory;
}

void Device::Free(void* memory) const noexcept {
  if (memory != nullptr) Try(&DeviceLibrary::free, memory);
}

void* Device::AllocateHost(size_t bytes) const {
  void* memory = nullptr;
  return Try(&DeviceLibrary::allocate_host, bytes, &memory) ? memory : nullptr;
}

void Device::FreeHost(void* memory) const noexcept { Try(&DeviceLibrary::free_host, memory); }

DeviceKernelRow Device::FindKernel(std::string_view name) const {
  DeviceKernelRow row{};
  Check(library_.find_kernel(std::string(name).c_str(), &row));
  return row;
}

DeviceEvent::DeviceEvent(const Device& device) : device_(device) {
  device_.Call(&DeviceLibrary::create_event, &event_);
}

DeviceEvent::~DeviceEvent() { device_.Try(&DeviceLibrary::destroy_event, event_); }

int64_t DeviceEvent::NanosecondsUntil(const DeviceEvent& later) const {
  int64_t nanoseconds = 0;
  device_.Call(&DeviceLibrary::elapsed, event_, later.event_, &nanoseconds);
  return nanoseconds;
}

namespace {

// Streams of sessions that are gone: one session's output may have been another's input, and is freed after both.
struct GoneStreams {
  std::mutex mutex;
  std::set<void*> handles;

  static GoneStreams& Get() {
    static auto& streams = *new GoneStreams;  // outputs may outlive statics
    return streams;
  }
};

}  // namespace

DeviceStream::DeviceStream(const Device& device) : device_(device), order_(device) {
  device_.Call(&DeviceLibrary::create_stream, &own_);
  current_ = own_;
  const std::lock_guard lock(GoneStreams::Get().mutex);
  GoneStreams::Get().handles.erase(own_);
}

DeviceStream::~DeviceStream() {
  device_.Try(&DeviceLibrary::synchronize, own_);
  const std::lock_guard lock(GoneStreams::Get().mutex);
  device_.Try(&DeviceLibrary::destroy_stream, own_);
  GoneStreams::Get().handles.insert(own_);
}

bool DeviceStream::IsGone(void* stream) {
  const std::lock_guard lock(GoneStreams::Get().mutex);
  return GoneStreams::Get().handles.contains(stream);
}

void DeviceStream::Use(void* stream) {
  void* next = stream == nullptr ? own_ : stream;
  if (next == current_) return;
  order_.Record(current_);
  order_.Wait(next);
  current_ = next;
}

// On the session's own stream whatever the caller's is: the default stream cannot be captured.
DeviceStream::Capture::Capture(DeviceStream& stream) : stream_(stream), outer_(stream.current_) {
  stream_.device_.Call(&DeviceLibrary::begin_capture, stream_.own_);
  stream_.current_ = stream_.own_;
}

DeviceStream::Capture::~Capture() {
  if (open_) stream_.device_.Try(&DeviceLibrary::end_capture, stream_.own_, static_cast<void**>(nullptr));
  stream_.current_ = outer_;
}

void* DeviceStream::Capture::End() {
  void* graph = nullptr;
  open_ = false;
  stream_.device_.Call(&DeviceLibrary::end_capture, stream_.own_, &graph);
  return graph;
}

void DeviceStream::WaitFor(void* other) {
  if (other == current_) return;
  order_.Record(other);
  order_.Wait(current_);
}

void DeviceStream::Copy(void* to, const void* from, size_t bytes, CopyKind kind) const {
  if (bytes > 0) device_.Call(&DeviceLibrary::copy, current_, to, from, bytes, kind);
}

void DeviceStream::Store(void* to, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  if (bytes <= kMostStored) {
    device_.Call(&DeviceLibrary::store, current_, to, from, bytes);
  } else {
    Copy(to, from, bytes, CopyKind::kToDevice);
  }
}

void DeviceStream::Zero(void* to, size_t bytes) const {
  if (bytes > 0) device_.Call(&DeviceLibrary::zero, current_, to, bytes);
}

void TensorMemory::Copy(void* to, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  if (stream_ == nullptr) {
    std::memcpy(to, from, bytes);
  } else {
    stream_->Copy(to, from, bytes, CopyKind::kOnDevice);
  }
}

void TensorMemory::Load(void* host, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  if (stream_ == nullptr) {
    std::memcpy(host, from, bytes);
    return;
  }
  stream_->Copy(host, from, bytes, CopyKind::kToHost);
  stream_->Synchronize();
}

void TensorMemory::Store(void* to, const void* host, size_t bytes) const {
  if (bytes == 0) return;
  if (stream_ == nullptr) {
    std::memcpy(to, host, bytes);
  } else {
    stream_->Store(to, host, bytes);
  }
}

void TensorMemory::Zero(void* to, size_t bytes) const {
  if (bytes == 0) return;
  if (stream_ == nullptr) {
    std::memset(to, 0, bytes);
  } else {
    stream_->Zero(to, bytes);
  }
}

std::string DeviceText(DLDevice device) {
  if (IsHost(device)) return "the CPU";
  if (device.device_type == kDLCUDA || device.device_type == kDLCUDAManaged) return Text("GPU ", device.device_id);
  return Text("device ", static_cast<int>(device.device_type), ":", device.device_id, " (DLPack)");
}

std::string MissingDeviceCode(const Device& device, std::span<const int64_t> architectures, int64_t ptx) {
  const int32_t capability = device.capability();
  std::string offered;
  for (const int64_t architecture : architectures) {
    if (architecture / 10 == capability / 10 && architecture <= capability) return "";
    offered += Text(offered.empty() ? "sm_" : ", sm_", architecture);
  }
  if (ptx > 0 && ptx <= capability) return "";
  if (ptx > 0) offered += Text(offered.empty() ? "" : " and ", "GPUs after sm_", ptx);
  if (offered.empty()) offered = "no GPU";
  constexpr int32_t kLeast = 80;
  return Text("has code for ", offered, ", and none for ", device.text(), ": ",
              capability < kLeast ? Text("Ingot compiles for sm_", kLeast, " and later")
                                  : Text("compile the model with --target cuda:sm_", capability));
}

}  // namespace ingot
