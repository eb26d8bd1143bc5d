// What ../ptx_barrier.h declares, emulated.
#pragma once

#include "../ptx.h"

namespace ingot::ptx {

inline uint32_t SharedAddress(const void* pointer) { return emulator::SharedNumber(pointer); }

void BarrierInit(uint32_t barrier, uint32_t count);
void BarrierInvalidate(uint32_t barrier);
void BarrierArrive(uint32_t barrier);
void BarrierArriveExpect(uint32_t barrier, uint32_t bytes);
void BarrierExpect(uint32_t barrier, uint32_t bytes);
bool BarrierTryWait(uint32_t barrier, uint32_t parity);
inline void BarrierWait(uint32_t barrier, uint32_t parity) {
  while (!BarrierTryWait(barrier, parity)) {
  }
}
void CopyAsyncArrive(uint32_t barrier);

void NamedSync(uint32_t barrier, uint32_t threads);
void NamedArrive(uint32_t barrier, uint32_t threads);

inline void FenceProxyAsync() {}
inline void FenceBarrierInit() {}

bool Elect();
template <int kRegisters>
void SetMaxRegistersUp() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emulator::RequireCapability(90, "setmaxnreg");
}
template <int kRegisters>
void SetMaxRegistersDown() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  emulator::RequireCapability(90, "setmaxnreg");
}

inline void GridDependencyWait() {}
inline void GridLaunchDependents() {}

}  // namespace ingot::ptx
