// The functions of DeviceLibrary over the CUDA runtime.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>

#include "context.h"
#include "cuda/registry.h"
#include "store.h"

namespace ingot::cuda {
namespace {

thread_local std::string t_last_error;

int32_t Report(ingot_status status, const char* message) noexcept {
  try {
    t_last_error = message;
  } catch (const std::bad_alloc&) {
    t_last_error.clear();
  }
  return status;
}

// Turns exceptions into statuses.
template <typename Body>
int32_t Guard(Body&& body) noexcept {
  try {
    body();
    return INGOT_OK;
  } catch (const CallbackFailed&) {
    return kCallbackFailed;
  } catch (const Error& error) {
    return Report(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return Report(INGOT_ERROR_MEMORY, "memory ran out");
  } catch (const std::exception& error) {
    return Report(INGOT_ERROR_INTERNAL, error.what());
  } catch (...) {
    return Report(INGOT_ERROR_INTERNAL, "an unknown exception");
  }
}

// After these, the process can do nothing more with the GPU.
bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorECCUncorrectable:
      return true;
    default:
      return false;
  }
}

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report it again
  const ingot_status status = error == cudaErrorMemoryAllocation ? INGOT_ERROR_MEMORY : INGOT_ERROR_EXECUTION;
  if (IsSticky(error))
    Fail(INGOT_ERROR_EXECUTION, "a kernel failed: ", std::string_view(cudaGetErrorString(error)), " (seen by ",
         std::string_view(what), "); this process cannot use the GPU any more");
  Fail(status, std::string_view(what), ": ", CudaErrorText(error));
}

// Calls are made for the device that they name, whatever the thread used before; what it used is put back.
class OnDevice {
 public:
  explicit OnDevice(int32_t device) {
    if (cudaGetDevice(&before_) != cudaSuccess) before_ = device;
    if (before_ != device) Check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = before_ != device;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

template <typename Body>
int32_t On(int32_t device, Body&& body) noexcept {
  return Guard([&] {
    const OnDevice on(device);
    body();
  });
}

cudaStream_t StreamOf(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t EventOf(void* event) { return static_cast<cudaEvent_t>(event); }

std::string VersionText(int version) { return Text(version / 1000, ".", version % 1000 / 10); }

// What is wrong with the driver, which cudart says in one error for all cases.
[[noreturn]] void FailDriver(cudaError_t error) {
  int driver = 0;
  int runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0)
    Fail(INGOT_ERROR_TARGET, "there is no NVIDIA driver (libcuda.so.1) on this machine; one for CUDA ",
         VersionText(runtime), " or later is needed");
  if (driver / 1000 < runtime / 1000)
    Fail(INGOT_ERROR_TARGET, "the NVIDIA driver is too old: it is one for CUDA ", VersionText(driver), ", and CUDA ",
         runtime / 1000, ".0 or later is needed");
  if (error == cudaErrorNoDevice)
    Fail(INGOT_ERROR_TARGET, "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES can hide them)");
  Fail(INGOT_ERROR_TARGET, "the NVIDIA driver cannot be used: ", std::string_view(cudaGetErrorString(error)));
}

struct Properties {
  int capability;
  int multiprocessors;
};

const Properties& PropertiesOf(int32_t device) {
  static std::mutex mutex;
  static std::unordered_map<int32_t, Properties> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    Check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
    return value;
  };
  const int capability =
      10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  return known.emplace(device, Properties{capability, attribute(cudaDevAttrMultiProcessorCount)}).first->second;
}

const char* LastError() { return t_last_error.c_str(); }

int32_t Count(int32_t* devices) {
  return Guard([&] {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess) FailDriver(error);
    *devices = count;
  });
}

int32_t Info(int32_t device, DeviceInfo* out) {
  return On(device, [&] {
    cudaDeviceProp properties{};
    Check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    const size_t length = std::min(sizeof out->name - 1, std::strlen(properties.name));
    std::memcpy(out->name, properties.name, length);
    out->name[length] = '\0';
    out->capability = PropertiesOf(device).capability;
    out->multiprocessors = PropertiesOf(device).multiprocessors;
    out->memory = properties.totalGlobalMem;
  });
}

int32_t FreeMemory(int32_t device, uint64_t* bytes) {
  return On(device, [&] {
    size_t free = 0;
    size_t total = 0;
    Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    *bytes = free;
  });
}

int32_t Allocate(int32_t device, size_t bytes, void** out) {
  return On(device, [&] { Check(cudaMalloc(out, bytes), "cudaMalloc"); });
}

int32_t Free(int32_t device, void* memory) {
  return On(device, [&] { Check(cudaFree(memory), "cudaFree"); });
}

int32_t AllocateHost(int32_t device, size_t bytes, void** out) {
  return On(device, [&] { Check(cudaHostAlloc(out, bytes, cudaHostAllocDefault), "cudaHostAlloc"); });
}

int32_t FreeHost(int32_t device, void* memory) {
  return On(device, [&] { Check(cudaFreeHost(memory), "cudaFreeHost"); });
}

int32_t CreateStream(int32_t device, void** out) {
  return On(device, [&] {
    Check(cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(out), cudaStreamNonBlocking),
          "cudaStreamCreateWithFlags");
  });
}

int32_t DestroyStream(int32_t device, void* stream) {
  return On(device, [&] { Check(cudaStreamDestroy(StreamOf(stream)), "cudaStreamDestroy"); });
}

int32_t Synchronize(int32_t device, void* stream) {
  return On(device, [&] { Check(cudaStreamSynchronize(StreamOf(stream)), "cudaStreamSynchronize"); });
}

// Whether the driver reads host memory later than a copy returns: it does where the memory is pinned.
bool IsPinned(const void* memory) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, memory) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return attributes.type == cudaMemoryTypeHost || attributes.type == cudaMemoryTypeManaged;
}

int32_t Copy(int32_t device, void* stream, void* to, const void* from, size_t bytes, CopyKind kind) {
  return On(device, [&] {
    constexpr cudaMemcpyKind kKinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice};
    Check(cudaMemcpyAsync(to, from, bytes, kKinds[static_cast<int32_t>(kind)], StreamOf(stream)), "cudaMemcpyAsync");
    if (kind == CopyKind::kToDevice && IsPinned(from))
      Check(cudaStreamSynchronize(StreamOf(stream)), "cudaStreamSynchronize");
  });
}

int32_t StoreBytes(int32_t device, void* stream, void* to, const void* from, size_t bytes) {
  return On(device, [&] { Check(Store(to, from, bytes, StreamOf(stream)), "a store"); });
}

int32_t Zero(int32_t device, void* stream, void* to, size_t bytes) {
  return On(device, [&] { Check(cudaMemsetAsync(to, 0, bytes, StreamOf(stream)), "cudaMemsetAsync"); });
}

int32_t CreateEvent(int32_t device, void** out) {
  return On(device, [&] { Check(cudaEventCreate(reinterpret_cast<cudaEvent_t*>(out)), "cudaEventCreate"); });
}

int32_t DestroyEvent(int32_t device, void* event) {
  return On(device, [&] { Check(cudaEventDestroy(EventOf(event)), "cudaEventDestroy"); });
}

int32_t Record(int32_t device, void* event, void* stream) {
  return On(device, [&] { Check(cudaEventRecord(EventOf(event), StreamOf(stream)), "cudaEventRecord"); });
}

int32_t Wait(int32_t device, void* stream, void* event) {
  return On(device, [&] { Check(cudaStreamWaitEvent(StreamOf(stream), EventOf(event), 0), "cudaStreamWaitEvent"); });
}

int32_t Elapsed(int32_t device, void* first, void* second, int64_t* nanoseconds) {
  return On(device, [&] {
    Check(cudaEventSynchronize(EventOf(second)), "cudaEventSynchronize");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, EventOf(first), EventOf(second)), "cudaEventElapsedTime");
    *nanoseconds = static_cast<int64_t>(static_cast<double>(milliseconds) * 1e6);
  });
}

int32_t LoadModule(int32_t device, const void* image, size_t /*bytes*/, void** out) {
  return On(device, [&] {
    Check(cudaLibraryLoadData(reinterpret_cast<cudaLibrary_t*>(out), image, nullptr, nullptr, 0, nullptr, nullptr, 0),
          "the GPU's code cannot be loaded");
  });
}

int32_t UnloadModule(int32_t device, void* module) {
  return On(device, [&] { Check(cudaLibraryUnload(static_cast<cudaLibrary_t>(module)), "cudaLibraryUnload"); });
}

int32_t FindFunction(int32_t device, void* module, const char* name, uint32_t shared, void** out) {
  return On(device, [&] {
    cudaKernel_t kernel = nullptr;
    const cudaError_t error = cudaLibraryGetKernel(&kernel, static_cast<cudaLibrary_t>(module), name);
    if (error != cudaSuccess) {
      cudaGetLastError();
      Fail(INGOT_ERROR_ARTIFACT, "the GPU's code has no kernel '", std::string_view(name),
           "': ", std::string_view(cudaGetErrorString(error)));
    }
    constexpr uint32_t kWithoutAsking = 48 * 1024;
    if (shared > kWithoutAsking)
      Check(cudaKernelSetAttributeForDevice(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(shared), device),
            "cudaKernelSetAttributeForDevice");
    *out = kernel;
  });
}

int32_t LaunchFunction(int32_t device, void* stream, const DeviceLaunch* launch, void** parameters) {
  return On(device, [&] {
    const dim3 grid(launch->grid[0], launch->grid[1], launch->grid[2]);
    const dim3 block(launch->block[0], launch->block[1], launch->block[2]);
    Check(cudaLaunchKernel(launch->function, grid, block, parameters, launch->shared, StreamOf(stream)),
          "cudaLaunchKernel");
  });
}

int32_t FindKernel(const char* name, DeviceKernelRow* out) {
  return Guard([&] {
    *out = {};
    const CudaKernel* kernel = FindCudaKernel(name);
    if (kernel == nullptr) return;
    *out = {kernel,
            kernel->contract.data(),
            {kernel->arity.inputs.least, kernel->arity.inputs.most},
            {kernel->arity.outputs.least, kernel->arity.outputs.most},
            kernel->arity.dims,
            kernel->arity.ints,
            kernel->arity.floats};
  });
}

int32_t RunKernel(int32_t device, void* stream, const void* kernel, const DeviceKernelCall* call) {
  return On(device, [&] {
    const Properties& properties = PropertiesOf(device);
    Context context(*call, StreamOf(stream), properties.capability, properties.multiprocessors);
    try {
      static_cast<const CudaKernel*>(kernel)->run(context);
    } catch (...) {
      cudaGetLastError();  // so that the next launch does not report a call that this one made
      throw;
    }
    Check(cudaPeekAtLastError(), "a launch");
  });
}

int32_t BeginCapture(int32_t device, void* stream) {
  return On(device, [&] {
    Check(cudaStreamBeginCapture(StreamOf(stream), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  });
}

int32_t EndCapture(int32_t device, void* stream, void** graph) {
  return On(device, [&] {
    cudaGraph_t captured = nullptr;
    const cudaError_t error = cudaStreamEndCapture(StreamOf(stream), &captured);
    if (graph == nullptr) {
      cudaGetLastError();
      if (captured != nullptr) cudaGraphDestroy(captured);
      return;
    }
    Check(error, "cudaStreamEndCapture");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t instantiated = cudaGraphInstantiate(&executable, captured, 0);
    cudaGraphDestroy(captured);
    Check(instantiated, "cudaGraphInstantiate");
    *graph = executable;
  });
}

int32_t LaunchGraph(int32_t device, void* graph, void* stream) {
  return On(device,
            [&] { Check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), StreamOf(stream)), "cudaGraphLaunch"); });
}

int32_t DestroyGraph(int32_t device, void* graph) {
  return On(device, [&] { Check(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "cudaGraphExecDestroy"); });
}

constexpr DeviceLibrary kLibrary = {
    sizeof(DeviceLibrary),
    LastError,
    Count,
    Info,
    FreeMemory,
    Allocate,
    Free,
    AllocateHost,
    FreeHost,
    CreateStream,
    DestroyStream,
    Synchronize,
    Copy,
    StoreBytes,
    Zero,
    CreateEvent,
    DestroyEvent,
    Record,
    Wait,
    Elapsed,
    LoadModule,
    UnloadModule,
    FindFunction,
    LaunchFunction,
    FindKernel,
    RunKernel,
    BeginCapture,
    EndCapture,
    LaunchGraph,
    DestroyGraph,
};

}  // namespace
}  // namespace ingot::cuda

extern "C" INGOT_API const ingot::DeviceLibrary* ingot_cuda_device_v1() { return &ingot::cuda::kLibrary; }
