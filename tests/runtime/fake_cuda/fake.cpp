// A device library without a GPU, for tests of libingot (INGOT_CUDA_LIBRARY). "Device" memory is unreadable but while
// work on a stream is done, so that a mistaken access from the host ends the process; and work is done as late as the
// contract allows, when something waits for it, so that a missing wait shows old bytes.
//
// There are three GPUs: 0 and 3 are sm_90, 1 is sm_80, 2 is sm_75. INGOT_FAKE_CUDA is what is wrong with the driver:
// no_driver, old_driver or no_device.

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "device_library.h"
#include "error.h"

namespace ingot::fake {
namespace {

constexpr size_t kPage = 4096;
constexpr int32_t kDevices = 4;
constexpr int32_t kCapabilities[kDevices] = {90, 80, 75, 90};

std::recursive_mutex g_mutex;
thread_local std::string t_last_error;
std::map<std::byte*, size_t> g_memory;  // of devices: address and bytes
std::map<std::string, int64_t, std::less<>> g_counts;
uint64_t g_limit = uint64_t{1} << 40;
uint64_t g_used = 0;

template <typename Body>
int32_t Guard(const char* what, Body&& body) noexcept {
  const std::lock_guard lock(g_mutex);
  try {
    ++g_counts[what];
    body();
    return INGOT_OK;
  } catch (const Error& error) {
    t_last_error = error.what();
    return error.status();
  }
}

void Protect(int protection) {
  for (const auto& [address, bytes] : g_memory) ::mprotect(address, (bytes + kPage - 1) / kPage * kPage, protection);
}

// While one lives, device memory is there.
struct Unlock {
  Unlock() { Protect(PROT_READ | PROT_WRITE); }
  ~Unlock() { Protect(PROT_NONE); }
};

// Bytes of device memory must be all in one allocation.
void RequireDevice(const void* address, size_t bytes, const char* what) {
  const auto* at = static_cast<const std::byte*>(address);
  for (const auto& [begin, size] : g_memory) {
    if (at >= begin && at + bytes <= begin + size) return;
  }
  std::fprintf(stderr, "fake_cuda: %s: %p of %zu bytes is no device memory\n", what, address, bytes);
  std::abort();
}

void RequireHost(const void* address, const char* what) {
  const auto* at = static_cast<const std::byte*>(address);
  for (const auto& [begin, size] : g_memory) {
    if (at < begin || at >= begin + size) continue;
    std::fprintf(stderr, "fake_cuda: %s: %p is device memory, not the host's\n", what, address);
    std::abort();
  }
}

using Work = std::function<void()>;

struct Stream {
  std::deque<Work> queue;
  int64_t done = 0;
  bool capturing = false;
  std::vector<Work> captured;

  int64_t end() const { return done + static_cast<int64_t>(queue.size()); }
  void RunUntil(int64_t position) {
    while (done < position && !queue.empty()) {
      const Work work = std::move(queue.front());
      queue.pop_front();
      ++done;
      work();
    }
  }
};

struct Event {
  Stream* stream = nullptr;
  int64_t position = 0;
};

struct Graph {
  std::vector<Work> work;
};

std::map<Stream*, int> g_streams;

Stream& At(void* stream) {
  static Stream legacy;
  if (stream == reinterpret_cast<void*>(1)) return legacy;
  auto* found = static_cast<Stream*>(stream);
  if (!g_streams.contains(found)) {
    std::fprintf(stderr, "fake_cuda: %p is no stream\n", stream);
    std::abort();
  }
  return *found;
}

void Enqueue(void* stream, Work work) {
  Stream& at = At(stream);
  if (at.capturing) {
    at.captured.push_back(std::move(work));
  } else {
    at.queue.push_back(std::move(work));
  }
}

void RunEverything() {
  for (const auto& [stream, unused] : g_streams) stream->RunUntil(stream->end());
}

void ForbidCapture(void* stream, const char* what) {
  if (At(stream).capturing) Fail(INGOT_ERROR_EXECUTION, "operation not permitted when stream is capturing: ", what);
}

// ---- Kernels: what modules hold by name, and the registry

using Parameters = std::vector<int64_t>;

template <typename T>
T* Pointer(int64_t parameter) {
  return reinterpret_cast<T*>(parameter);
}

// As device code does.
void Report(DeviceFault* where, uint64_t step, const Fault& fault) {
  if (where->step == 0) *where = {step, fault};
}

struct Launched {
  DeviceLaunch launch;
  Parameters parameters;
  int64_t threads() const {
    int64_t count = 1;
    for (int axis = 0; axis < 3; ++axis) count *= int64_t{launch.grid[axis]} * launch.block[axis];
    return count;
  }
};

// Element i is computed by thread i, as a GPU would.
template <typename Element>
void EachThread(const Launched& launched, int64_t count, Element&& element) {
  for (int64_t i = 0; i < launched.threads() && i < count; ++i) element(i);
}

struct Function {
  const char* name;
  size_t parameters;
  void (*run)(const Launched&);
};

constexpr Function kFunctions[] = {
    {"scale_kernel", 3,  // (x, y, n): y = 2 x
     [](const Launched& l) {
       EachThread(l, l.parameters[2],
                  [&](int64_t i) { Pointer<float>(l.parameters[1])[i] = 2 * Pointer<float>(l.parameters[0])[i]; });
     }},
    {"add_kernel", 4,  // (a, b, y, n): y = a + b
     [](const Launched& l) {
       EachThread(l, l.parameters[3], [&](int64_t i) {
         Pointer<float>(l.parameters[2])[i] = Pointer<float>(l.parameters[0])[i] + Pointer<float>(l.parameters[1])[i];
       });
     }},
    {"square_kernel", 4,  // (x, t, y, n): t = x x
     [](const Launched& l) {
       EachThread(l, l.parameters[3], [&](int64_t i) {
         const float x = Pointer<float>(l.parameters[0])[i];
         Pointer<float>(l.parameters[1])[i] = x * x;
       });
     }},
    {"sum_kernel", 4,  // (x, t, y, n): y[0] = the sum of t
     [](const Launched& l) {
       float sum = 0;
       for (int64_t i = 0; i < l.parameters[3]; ++i) sum += Pointer<float>(l.parameters[1])[i];
       Pointer<float>(l.parameters[2])[0] = sum;
     }},
    {"less_kernel", 2,  // (x, y): y = x < 10, of one element
     [](const Launched& l) { Pointer<bool>(l.parameters[1])[0] = Pointer<float>(l.parameters[0])[0] < 10; }},
    {"count_kernel", 4,  // (length, count, y, n): y = length + count, of int64
     [](const Launched& l) {
       EachThread(l, l.parameters[3], [&](int64_t i) {
         Pointer<int64_t>(l.parameters[2])[i] =
             Pointer<int64_t>(l.parameters[0])[i] + Pointer<int64_t>(l.parameters[1])[i];
       });
     }},
    {"checked_kernel", 5,  // (x int64, y, n, fault, step): y = float(x), where x is not below 0 and less than 100
     [](const Launched& l) {
       EachThread(l, l.parameters[2], [&](int64_t i) {
         const int64_t x = Pointer<int64_t>(l.parameters[0])[i];
         Pointer<float>(l.parameters[1])[i] = static_cast<float>(x);
         if (x < 0 || x >= 100)
           Report(Pointer<DeviceFault>(l.parameters[3]), static_cast<uint64_t>(l.parameters[4]),
                  {FaultKind::kIndex, {x, 100}});
       });
     }},
    {"gather_kernel", 3,  // (indices int64, y, n): y = float(indices)
     [](const Launched& l) {
       EachThread(l, l.parameters[2], [&](int64_t i) {
         Pointer<float>(l.parameters[1])[i] = static_cast<float>(Pointer<int64_t>(l.parameters[0])[i]);
       });
     }},
};

struct RegistryKernel {
  DeviceKernelRow row;
  const char* name;
  // Enqueues its work; false if a callback failed.
  bool (*run)(const DeviceKernelCall&, void* stream);
};

int64_t Elements(const DLTensor& tensor) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor.ndim; ++i) count *= tensor.shape[i];
  return count;
}

// Steps `update` [B, n, ...] go into an output, which is the input of the same number, a cache [B, steps, ...].
bool Write(const DeviceKernelCall& call, void* stream, size_t index, const DLTensor& update, const DLTensor& starts) {
  const DLTensor* output = call.prepare(call.caller, index, nullptr, 0);
  if (output == nullptr) return false;
  const DLTensor cache = *call.inputs[index];
  if (output->data != cache.data) Fail(INGOT_ERROR_EXECUTION, "the cache is not changed in place");
  const auto* first = static_cast<const int64_t*>(starts.data);
  const auto rows = static_cast<size_t>(cache.shape[0]);
  const size_t row = static_cast<size_t>(Elements(cache)) / rows * sizeof(float);
  const size_t step = row / static_cast<size_t>(cache.shape[1]);
  const size_t bytes = static_cast<size_t>(Elements(update)) / rows * sizeof(float);
  DeviceFault* const where = call.fault;
  const uint64_t name = call.step;
  auto* to = static_cast<std::byte*>(cache.data);
  const auto* from = static_cast<const std::byte*>(update.data);
  Enqueue(stream, [=] {
    const Unlock unlock;
    for (size_t b = 0; b < rows; ++b) {
      const size_t at = static_cast<size_t>(first[b]) * step;
      if (at + bytes > row) {
        const auto steps = [&](size_t count) { return static_cast<int64_t>(count / step); };
        Report(where, name, {FaultKind::kFull, {static_cast<int64_t>(b), first[b], steps(bytes), steps(row)}});
        continue;
      }
      std::memcpy(to + b * row + at, from + b * bytes, bytes);
    }
  });
  return true;
}

// (cache, update, first [B]): in place.
bool Scatter(const DeviceKernelCall& call, void* stream) {
  return Write(call, stream, 0, *call.inputs[1], *call.inputs[2]);
}

// (cache, cache, update, first [B]): both in place.
bool ScatterPair(const DeviceKernelCall& call, void* stream) {
  return Write(call, stream, 0, *call.inputs[2], *call.inputs[3]) &&
         Write(call, stream, 1, *call.inputs[2], *call.inputs[3]);
}

// (x) -> y = x reversed, by way of scratch memory.
bool Reverse(const DeviceKernelCall& call, void* stream) {
  const DLTensor* output = call.prepare(call.caller, 0, nullptr, 0);
  const DLTensor& x = *call.inputs[0];
  const auto count = static_cast<size_t>(Elements(x));
  auto* scratch = static_cast<float*>(call.scratch(call.caller, count * sizeof(float)));
  if (output == nullptr || scratch == nullptr) return false;
  const auto* from = static_cast<const float*>(x.data);
  auto* to = static_cast<float*>(output->data);
  RequireDevice(scratch, count * sizeof(float), "scratch");
  Enqueue(stream, [=] {
    const Unlock unlock;
    for (size_t i = 0; i < count; ++i) scratch[i] = from[count - 1 - i];
  });
  Enqueue(stream, [=] {
    const Unlock unlock;
    std::memcpy(to, scratch, count * sizeof(float));
  });
  return true;
}

// Always fails, as a kernel that is given what it does not take.
bool Refuse(const DeviceKernelCall&, void*) { Fail(INGOT_ERROR_EXECUTION, "heads of 7 are not supported"); }

const RegistryKernel kRegistry[] = {
    {{nullptr, "(cache, update, first?)", {2, 3}, {1, 1}, 0, 3, 0}, "tensor_scatter", Scatter},
    {{nullptr, "(cache, cache, update, first)", {4, 4}, {2, 2}, 0, 0, 0}, "scatter_pair", ScatterPair},
    {{nullptr, "(x) -> reversed", {1, 1}, {1, 1}, 0, 0, 0}, "reverse", Reverse},
    {{nullptr, "(x) -> nothing", {1, 1}, {1, 1}, 0, 0, 0}, "refuse", Refuse},
};

// ---- The table

const DeviceLibrary kLibrary = {
    sizeof(DeviceLibrary),
    [] { return t_last_error.c_str(); },
    [](int32_t* devices) {
      return Guard("count", [&] {
        const char* given = std::getenv("INGOT_FAKE_CUDA");
        const std::string_view wrong = given == nullptr ? "" : given;
        if (wrong == "no_driver") Fail(INGOT_ERROR_TARGET, "there is no NVIDIA driver");
        if (wrong == "old_driver") Fail(INGOT_ERROR_TARGET, "the NVIDIA driver is too old: it is one for CUDA 11.4");
        *devices = wrong == "no_device" ? 0 : kDevices;
      });
    },
    [](int32_t device, DeviceInfo* out) {
      return Guard("info", [&] {
        std::snprintf(out->name, sizeof out->name, "Fake");
        out->capability = kCapabilities[device];
        out->multiprocessors = 4;
        out->memory = g_limit;
      });
    },
    [](int32_t, uint64_t* bytes) {
      return Guard("free_memory", [&] { *bytes = g_limit - std::min(g_limit, g_used); });
    },
    [](int32_t, size_t bytes, void** out) {
      return Guard("allocate", [&] {
        if (g_used + bytes > g_limit) Fail(INGOT_ERROR_MEMORY, "out of memory");
        void* memory = ::mmap(nullptr, (bytes + kPage - 1) / kPage * kPage, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::memset(memory, 0xFF, bytes);  // NaN, so that what nobody wrote shows
        ::mprotect(memory, bytes, PROT_NONE);
        g_memory[static_cast<std::byte*>(memory)] = bytes;
        g_used += bytes;
        *out = memory;
      });
    },
    [](int32_t, void* memory) {
      return Guard("free", [&] {
        RunEverything();
        const auto found = g_memory.find(static_cast<std::byte*>(memory));
        ::munmap(memory, (found->second + kPage - 1) / kPage * kPage);
        g_used -= found->second;
        g_memory.erase(found);
      });
    },
    [](int32_t, size_t bytes, void** out) { return Guard("allocate_host", [&] { *out = std::malloc(bytes); }); },
    [](int32_t, void* memory) {
      return Guard("free_host", [&] {
        RunEverything();
        std::free(memory);
      });
    },
    [](int32_t, void** out) {
      return Guard("create_stream", [&] {
        auto* stream = new Stream;
        g_streams[stream] = 0;
        *out = stream;
      });
    },
    [](int32_t, void* stream) {
      return Guard("destroy_stream", [&] {
        At(stream).RunUntil(At(stream).end());
        g_streams.erase(static_cast<Stream*>(stream));  // not deleted: events may know it
      });
    },
    [](int32_t, void* stream) {
      return Guard("synchronize", [&] {
        ForbidCapture(stream, "synchronize");
        At(stream).RunUntil(At(stream).end());
      });
    },
    [](int32_t, void* stream, void* to, const void* from, size_t bytes, CopyKind kind) {
      static constexpr const char* kNames[] = {"copy_to_device", "copy_to_host", "copy_on_device"};
      const char* name = kNames[static_cast<int32_t>(kind)];
      return Guard(name, [&] {
        if (kind != CopyKind::kToHost) RequireDevice(to, bytes, name);
        if (kind != CopyKind::kToDevice) RequireDevice(from, bytes, name);
        if (kind == CopyKind::kToHost) RequireHost(to, name);
        if (kind == CopyKind::kOnDevice) {
          Enqueue(stream, [=] {
            const Unlock unlock;
            std::memcpy(to, from, bytes);
          });
          return;
        }
        ForbidCapture(stream, name);
        if (kind == CopyKind::kToHost) {
          Enqueue(stream, [=] {
            const Unlock unlock;
            std::memcpy(to, from, bytes);
          });
          return;
        }
        RequireHost(from, name);
        const auto* source = static_cast<const std::byte*>(from);
        Enqueue(stream, [to, bytes, read = std::vector<std::byte>(source, source + bytes)] {
          const Unlock unlock;
          std::memcpy(to, read.data(), bytes);
        });
      });
    },
    [](int32_t, void* stream, void* to, const void* from, size_t bytes) {
      return Guard("store", [&] {
        if (bytes > kMostStored) Fail(INGOT_ERROR_INTERNAL, "too much for a store");
        RequireDevice(to, bytes, "store");
        const auto* source = static_cast<const std::byte*>(from);
        Enqueue(stream, [to, bytes, read = std::vector<std::byte>(source, source + bytes)] {
          const Unlock unlock;
          std::memcpy(to, read.data(), bytes);
        });
      });
    },
    [](int32_t, void* stream, void* to, size_t bytes) {
      return Guard("zero", [&] {
        RequireDevice(to, bytes, "zero");
        Enqueue(stream, [=] {
          const Unlock unlock;
          std::memset(to, 0, bytes);
        });
      });
    },
    [](int32_t, void** out) { return Guard("create_event", [&] { *out = new Event; }); },
    [](int32_t, void* event) { return Guard("destroy_event", [&] { delete static_cast<Event*>(event); }); },
    [](int32_t, void* event, void* stream) {
      return Guard("record", [&] { *static_cast<Event*>(event) = {&At(stream), At(stream).end()}; });
    },
    [](int32_t, void* stream, void* event) {
      return Guard("wait", [&] {
        const Event recorded = *static_cast<Event*>(event);
        if (recorded.stream == nullptr || recorded.stream == &At(stream)) return;
        Enqueue(stream, [recorded] { recorded.stream->RunUntil(recorded.position); });
      });
    },
    [](int32_t, void*, void* second, int64_t* nanoseconds) {
      return Guard("elapsed", [&] {
        const Event recorded = *static_cast<Event*>(second);
        recorded.stream->RunUntil(recorded.position);
        *nanoseconds = 1000;
      });
    },
    [](int32_t, const void* image, size_t bytes, void** out) {
      return Guard("load_module", [&] {
        if (std::string_view(static_cast<const char*>(image), bytes) != "fake code")
          Fail(INGOT_ERROR_EXECUTION, "device kernel image is invalid");
        *out = const_cast<void*>(image);
      });
    },
    [](int32_t, void*) { return Guard("unload_module", [] {}); },
    [](int32_t, void*, const char* name, uint32_t, void** out) {
      return Guard("find_function", [&] {
        for (const Function& function : kFunctions) {
          if (std::string_view(function.name) == name) *out = const_cast<Function*>(&function);
        }
        if (*out == nullptr) Fail(INGOT_ERROR_ARTIFACT, "the GPU's code has no kernel '", std::string_view(name), "'");
      });
    },
    [](int32_t, void* stream, const DeviceLaunch* launch, void** parameters) {
      return Guard("launch", [&] {
        const auto* function = static_cast<const Function*>(launch->function);
        Launched launched{*launch, {}};
        for (size_t i = 0; i < function->parameters; ++i)
          launched.parameters.push_back(*static_cast<int64_t*>(parameters[i]));
        Enqueue(stream, [function, launched] {
          const Unlock unlock;
          function->run(launched);
        });
      });
    },
    [](const char* name, DeviceKernelRow* out) {
      return Guard("find_kernel", [&] {
        for (const RegistryKernel& kernel : kRegistry) {
          if (std::string_view(kernel.name) != name) continue;
          *out = kernel.row;
          out->kernel = &kernel;
        }
      });
    },
    [](int32_t, void* stream, const void* kernel, const DeviceKernelCall* call) {
      bool done = true;
      const int32_t status =
          Guard("run_kernel", [&] { done = static_cast<const RegistryKernel*>(kernel)->run(*call, stream); });
      return done ? status : kCallbackFailed;
    },
    [](int32_t, void* stream) {
      return Guard("begin_capture", [&] {
        At(stream).capturing = true;
        At(stream).captured.clear();
      });
    },
    [](int32_t, void* stream, void** graph) {
      return Guard("end_capture", [&] {
        At(stream).capturing = false;
        if (graph != nullptr) *graph = new Graph{std::move(At(stream).captured)};
      });
    },
    [](int32_t, void* graph, void* stream) {
      return Guard("launch_graph", [&] {
        for (const Work& work : static_cast<Graph*>(graph)->work) Enqueue(stream, work);
      });
    },
    [](int32_t, void* graph) { return Guard("destroy_graph", [&] { delete static_cast<Graph*>(graph); }); },
};

}  // namespace
}  // namespace ingot::fake

extern "C" {
INGOT_API const ingot::DeviceLibrary* ingot_cuda_device_v1() { return &ingot::fake::kLibrary; }

// How often a function of the table was called.
INGOT_API int64_t fake_calls(const char* name) { return ingot::fake::g_counts[name]; }
// The memory of all GPUs together, and how much of it is in use.
INGOT_API void fake_limit_memory(uint64_t bytes) { ingot::fake::g_limit = bytes; }
INGOT_API uint64_t fake_used_memory() { return ingot::fake::g_used; }
// A stream of a caller's own, and whether work waits on it.
INGOT_API void* fake_stream() {
  void* stream = nullptr;
  ingot::fake::kLibrary.create_stream(0, &stream);
  return stream;
}
INGOT_API int64_t fake_pending(void* stream) {
  return static_cast<int64_t>(static_cast<ingot::fake::Stream*>(stream)->queue.size());
}
}
