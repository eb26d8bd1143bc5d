// What ../ptx_mma.h and ../ptx_wgmma.h declare, emulated.
#pragma once

#include "../ptx.h"

namespace ingot::ptx {

void LoadMatrices(uint32_t* const* registers, int count, bool transposed, uint32_t shared);
void StoreMatrices(uint32_t shared, const uint32_t* registers, int count, bool transposed);

inline void LoadMatrix1(uint32_t& r0, uint32_t shared) {
  uint32_t* const registers[] = {&r0};
  LoadMatrices(registers, 1, false, shared);
}
inline void LoadMatrix2(uint32_t& r0, uint32_t& r1, uint32_t shared) {
  uint32_t* const registers[] = {&r0, &r1};
  LoadMatrices(registers, 2, false, shared);
}
inline void LoadMatrix4(uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t shared) {
  uint32_t* const registers[] = {&r0, &r1, &r2, &r3};
  LoadMatrices(registers, 4, false, shared);
}
inline void LoadMatrixTransposed1(uint32_t& r0, uint32_t shared) {
  uint32_t* const registers[] = {&r0};
  LoadMatrices(registers, 1, true, shared);
}
inline void LoadMatrixTransposed2(uint32_t& r0, uint32_t& r1, uint32_t shared) {
  uint32_t* const registers[] = {&r0, &r1};
  LoadMatrices(registers, 2, true, shared);
}
inline void LoadMatrixTransposed4(uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t shared) {
  uint32_t* const registers[] = {&r0, &r1, &r2, &r3};
  LoadMatrices(registers, 4, true, shared);
}
inline void StoreMatrix2(uint32_t shared, uint32_t r0, uint32_t r1) {
  const uint32_t registers[] = {r0, r1};
  StoreMatrices(shared, registers, 2, false);
}
inline void StoreMatrix4(uint32_t shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  const uint32_t registers[] = {r0, r1, r2, r3};
  StoreMatrices(shared, registers, 4, false);
}
inline void StoreMatrixTransposed4(uint32_t shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  const uint32_t registers[] = {r0, r1, r2, r3};
  StoreMatrices(shared, registers, 4, true);
}

void MmaBFloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void MmaHalf(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void MmaHalfSums(uint32_t (&d)[2], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void MmaTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void MmaE4M3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

}  // namespace ingot::ptx
