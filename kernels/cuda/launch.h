// How host functions start device functions. `<<<>>>` is not used: the same sources are compiled for the emulator
// (emulator/emulator.h), where Launch runs them on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#if defined(INGOT_EMULATE)
#include "emulator/emulator.h"
#endif

// Hopper's own instructions can be used: what stands in `#if INGOT_HOPPER` is compiled for sm_90a and for the emulator.
#if defined(INGOT_EMULATE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define INGOT_HOPPER 1
#else
#define INGOT_HOPPER 0
#endif

// Declares `T* name`, the block's dynamic shared memory, aligned to 1,024 bytes (what TMA and wgmma with 128-byte
// swizzles need).
#if defined(INGOT_EMULATE)
#define INGOT_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(::ingot::emulator::DynamicShared())
#else
#define INGOT_DYNAMIC_SHARED(T, name)                                            \
  extern __shared__ __align__(1024) unsigned char ingot_dynamic_shared_memory[]; \
  T* const name = reinterpret_cast<T*>(ingot_dynamic_shared_memory)
#endif

namespace ingot {

// Runs kernel(args...) in grid x block threads, with `shared_bytes` of dynamic shared memory (more than 48 KiB is asked
// for here). With `overlapped` the kernel may start before what stands in front of it on the stream has finished, and
// must call ptx::GridDependencyWait() before it reads or writes anything of that (compute capability 9.0; elsewhere it
// makes no difference).
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchWith(bool overlapped, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                       cudaStream_t stream, Arguments&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
#if defined(INGOT_EMULATE)
  static_cast<void>(overlapped);
  static_cast<void>(stream);
  return emulator::Run(grid, block, shared_bytes, [&] { kernel(static_cast<Parameters>(args)...); });
#else
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlapped ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...);
#endif
}

template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   Arguments&&... args) {
  return LaunchWith(false, kernel, grid, block, shared_bytes, stream, static_cast<Arguments&&>(args)...);
}

}  // namespace ingot
