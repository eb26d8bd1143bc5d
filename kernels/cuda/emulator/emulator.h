// CUDA on the CPU, for tests: device code is compiled by a C++ compiler, and Run runs the threads of a block as fibers,
// blocks one after another.
//
// A thread runs until it waits: for a barrier, or for the other lanes of its warp in an instruction that all of them
// execute together, which the last to arrive computes for all. Threads take turns in a pseudo-random order
// (INGOT_EMULATOR_SEED, 1 by default).
//
// The emulator is stricter than a GPU. Shared memory is NaN at the start of a block; the target of an asynchronous copy
// is NaN until the copy was waited for, and wgmma reads its operands no sooner than it is waited for. It reports, as an
// error of the launch: threads that wait for ever, lanes of a warp that execute different instructions together,
// addresses outside of shared memory or not aligned, mbarriers that are not initialized, copies and products that
// nobody waited for, and instructions and sizes that the capability lacks. Not emulated: clusters, waiting for other
// blocks, partial warp masks, and the fences between proxies, which are not checked.
#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cstddef>
#include <cstdint>
#include <functional>

// As a C++ compiler sees them: shared memory of a block is thread-local, so that it is one piece of memory that a
// launch can fill.
#undef __shared__
#define __shared__ static thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline

namespace ingot::emulator {

// What Launch is, but for kernels that are bound to their arguments.
cudaError_t Run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);

// The GPU to be like, as 10 major + minor: what instructions there are, and how much shared memory. 90 at first.
void SetCapability(int capability);
int Capability();

void* DynamicShared();
uint3 ThreadIndex();
extern uint3 block_index;
extern dim3 block_extent;
extern dim3 grid_extent;

// Shared memory between two addresses of PTX: fails if it is none, or not aligned. `what` is the instruction.
void* SharedPointer(uint32_t address, size_t bytes, size_t alignment, const char* what);
uint32_t SharedNumber(const void* pointer);

// Runs `execute` once for the 32 lanes of a warp, with a pointer to each lane's arguments, when all have come.
void Collect(const char* instruction, void* arguments, void (*execute)(void* const* lanes));
template <typename Arguments, typename Execute>
void Collective(const char* instruction, Arguments& arguments, Execute) {
  static_assert(std::is_empty_v<Execute>);
  Collect(instruction, &arguments, [](void* const* lanes) {
    Arguments* typed[32];
    for (int lane = 0; lane < 32; ++lane) typed[lane] = static_cast<Arguments*>(lanes[lane]);
    Execute{}(typed);
  });
}

void SyncThreads();
void Yield();
[[noreturn]] void Trap(const char* what);
void RequireCapability(int capability, const char* what);

}  // namespace ingot::emulator

#define threadIdx (::ingot::emulator::ThreadIndex())
#define blockIdx (::ingot::emulator::block_index)
#define blockDim (::ingot::emulator::block_extent)
#define gridDim (::ingot::emulator::grid_extent)
#define warpSize 32

#include "device_functions.h"
