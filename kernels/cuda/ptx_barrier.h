// Synchronization: mbarriers, named barriers, fences, and what a warp or a grid waits for. Included by ptx.h.
#pragma once

#include "ptx.h"

namespace ingot::ptx {

INGOT_PTX uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- mbarrier: a uint64_t in shared memory, aligned to 8 bytes (sm_80; the transaction count and try_wait are
// sm_90's) A phase completes when `count` arrivals have come and as many bytes as were expected. It starts in phase 0.
INGOT_PTX void BarrierInit(uint32_t barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

INGOT_PTX void BarrierInvalidate(uint32_t barrier) {
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

INGOT_PTX void BarrierArrive(uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}

// Expects `bytes` more to be written in this phase, and arrives.
INGOT_PTX void BarrierArriveExpect(uint32_t barrier, uint32_t bytes) {
#if INGOT_HOPPER
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(barrier),
               "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void BarrierExpect(uint32_t barrier, uint32_t bytes) {
#if INGOT_HOPPER
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#else
  __trap();
#endif
}

// Whether the phase of this parity has completed; may sleep for a while before it says no.
INGOT_PTX bool BarrierTryWait(uint32_t barrier, uint32_t parity) {
#if INGOT_HOPPER
  uint32_t done;
  asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
               : "=r"(done)
               : "r"(barrier), "r"(parity)
               : "memory");
  return done != 0;
#else
  __trap();
  return false;
#endif
}

// Waits for the end of the phase of this parity: phases count 0, 1, 0, 1, ... A wait for parity 1 of a new barrier
// returns at once.
INGOT_PTX void BarrierWait(uint32_t barrier, uint32_t parity) {
  while (!BarrierTryWait(barrier, parity)) {
  }
}

// Arrives at the barrier when all cp.async of this thread so far have landed; the arrival counts as one of the
// barrier's `count`.
INGOT_PTX void CopyAsyncArrive(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// ---- Named barriers: 0 is __syncthreads's; 1 to 15 are free. `threads` counts all that take part and is a multiple of
// 32
INGOT_PTX void NamedSync(uint32_t barrier, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
INGOT_PTX void NamedArrive(uint32_t barrier, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- Fences
// Makes what threads wrote to shared memory visible to TMA and wgmma, which read it through another proxy. Before the
// barrier that tells them.
INGOT_PTX void FenceProxyAsync() {
#if INGOT_HOPPER
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Makes initialized mbarriers visible to TMA. After BarrierInit, before __syncthreads.
INGOT_PTX void FenceBarrierInit() {
#if INGOT_HOPPER
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// ---- Warps and grids
// True in one lane of the warp, which is always the same. All lanes call it.
INGOT_PTX bool Elect() {
#if INGOT_HOPPER
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
  return elected != 0;
#else
  return threadIdx.x % 32 == 0;
#endif
}

// Registers of each thread in the warpgroup from here on: a multiple of 8 from 24 to 256. All of its threads call it.
template <int kRegisters>
INGOT_PTX void SetMaxRegistersUp() {
#if INGOT_HOPPER
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
INGOT_PTX void SetMaxRegistersDown() {
#if INGOT_HOPPER
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// For kernels launched `overlapped`: waits until the kernels in front have finished and their writes are visible.
INGOT_PTX void GridDependencyWait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel on the stream start, if it was launched `overlapped`, once all blocks have said so or ended.
INGOT_PTX void GridLaunchDependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace ingot::ptx
