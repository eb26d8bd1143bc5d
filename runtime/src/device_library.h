// What libingot and libingot_cuda agree on: a table of functions over opaque handles. Libraries that were linked apart
// share no C++ classes, and no exception crosses. Nothing else of CUDA is known to libingot.
//
// Functions return an ingot_status; when it is not INGOT_OK, last_error() has a sentence about it. `device` is the
// number of a GPU. A stream is a cudaStream_t; work on it runs in order, later than the call unless the function says
// that it waits.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>

#include "fault.h"

namespace ingot {

// What is not known before libingot_cuda is asked: which GPU it is.
struct DeviceInfo {
  char name[128];
  int32_t capability;  // 10 major + minor: 90
  int32_t multiprocessors;
  uint64_t memory;  // bytes
};

struct DeviceLaunch {
  void* function;  // of find_function
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared;  // bytes of dynamic shared memory
};

// A kernel of the library's registry.
struct DeviceKernelRow {
  const void* kernel;  // what run_kernel knows it by
  const char* contract;
  size_t inputs[2];   // least and most
  size_t outputs[2];  // least and most
  size_t dims;
  size_t ints;
  size_t floats;
};

// What a kernel is run on. The callbacks return NULL on failure, after which run_kernel is to return kCallbackFailed.
struct DeviceKernelCall {
  const DLTensor* const* inputs;  // NULL: left out
  size_t input_count;
  size_t output_count;
  const int64_t* dims;
  size_t dim_count;
  const int64_t* ints;
  size_t int_count;
  const double* floats;
  size_t float_count;
  int32_t threads;
  void* caller;
  // An output, with its memory: of the shape that is known, or if `shape` is not NULL of that one.
  const DLTensor* (*prepare)(void* caller, size_t index, const int64_t* shape, size_t ndim);
  // Device memory until the kernel's work is done, aligned to 256 bytes; other memory for each call.
  void* (*scratch)(void* caller, size_t bytes);
  // Host memory until the kernel returns.
  void* (*host_scratch)(void* caller, size_t bytes);
  // Host memory that the GPU sees, where what is launched reports data that it does not take, and as whose.
  DeviceFault* fault;
  uint64_t step;
};

constexpr int32_t kCallbackFailed = -1;

enum class CopyKind : int32_t { kToDevice, kToHost, kOnDevice };

// The most bytes that `store` takes.
constexpr size_t kMostStored = 256;

struct DeviceLibrary {
  size_t struct_size;  // of the library's table; a later version has more functions at its end

  const char* (*last_error)();  // of the calling thread

  // How many GPUs there are. Says what is wrong with the driver, if anything is.
  int32_t (*count)(int32_t* devices);
  int32_t (*info)(int32_t device, DeviceInfo* out);
  int32_t (*free_memory)(int32_t device, uint64_t* bytes);

  // Device memory, aligned to 256 bytes; INGOT_ERROR_MEMORY if there is none left. Freeing waits for all work on it.
  int32_t (*allocate)(int32_t device, size_t bytes, void** out);
  int32_t (*free)(int32_t device, void* memory);
  // Host memory that is copied from and to without a detour.
  int32_t (*allocate_host)(int32_t device, size_t bytes, void** out);
  int32_t (*free_host)(int32_t device, void* memory);

  int32_t (*create_stream)(int32_t device, void** out);
  int32_t (*destroy_stream)(int32_t device, void* stream);
  int32_t (*synchronize)(int32_t device, void* stream);
  // A copy to the device has read its source when the function returns; one to the host has written when the stream was
  // synchronized.
  int32_t (*copy)(int32_t device, void* stream, void* to, const void* from, size_t bytes, CopyKind kind);
  // Writes up to kMostStored bytes to the device, which travel with the call; so a graph can hold them.
  int32_t (*store)(int32_t device, void* stream, void* to, const void* from, size_t bytes);
  int32_t (*zero)(int32_t device, void* stream, void* to, size_t bytes);

  int32_t (*create_event)(int32_t device, void** out);
  int32_t (*destroy_event)(int32_t device, void* event);
  int32_t (*record)(int32_t device, void* event, void* stream);
  // What is put on the stream from now on waits for what was recorded.
  int32_t (*wait)(int32_t device, void* stream, void* event);
  // Between two recorded events; waits for the second.
  int32_t (*elapsed)(int32_t device, void* first, void* second, int64_t* nanoseconds);

  // A fatbin. The bytes have to stay.
  int32_t (*load_module)(int32_t device, const void* image, size_t bytes, void** out);
  int32_t (*unload_module)(int32_t device, void* module);
  // A kernel of a module that is launched with up to this much dynamic shared memory.
  int32_t (*find_function)(int32_t device, void* module, const char* name, uint32_t shared, void** out);
  // parameters[i] is the address of the i-th parameter.
  int32_t (*launch)(int32_t device, void* stream, const DeviceLaunch* launch, void** parameters);

  // Returns INGOT_OK and kernel NULL if there is none of the name.
  int32_t (*find_kernel)(const char* name, DeviceKernelRow* out);
  int32_t (*run_kernel)(int32_t device, void* stream, const void* kernel, const DeviceKernelCall* call);

  // Between these two, work that this thread puts on the stream is recorded instead of done. A graph of NULL throws it
  // away.
  int32_t (*begin_capture)(int32_t device, void* stream);
  int32_t (*end_capture)(int32_t device, void* stream, void** graph);
  int32_t (*launch_graph)(int32_t device, void* graph, void* stream);
  int32_t (*destroy_graph)(int32_t device, void* graph);
};

// What a device library exports, as "ingot_cuda_device_v1".
using DeviceLibraryEntry = const DeviceLibrary* (*)();
inline constexpr const char* kDeviceLibraryEntry = "ingot_cuda_device_v1";

}  // namespace ingot
