// Matrix products of a warp (mma.sync, sm_80) and the loads and stores of their fragments. Included by ptx.h.
//
// Fragments, with group = lane / 4 and pair = lane % 4. Of D and C (16 x 8): d[0], d[1] are columns 2 pair and 2 pair +
// 1 of row group, d[2], d[3] those of row group + 8. Of A (16 x K): a[0] row group, a[1] row group + 8, a[2] and a[3]
// the same rows in the upper half of K; of B (K x 8): column group, b[0] the lower and b[1] the upper half of K. A
// register holds consecutive k, from pair * (elements in a register) on.
#pragma once

#include "ptx.h"

namespace ingot::ptx {

// ---- ldmatrix, stmatrix: 8 x 8 matrices of 16 bits. Lane i gives the address of a row (16 bytes, aligned): lanes 0 to
// 7 of matrix 0, 8 to 15 of matrix 1, ... Register j gets elements 2 pair and 2 pair + 1 of row group of matrix j;
// transposed: row and column exchanged
INGOT_PTX void LoadMatrix1(uint32_t& r0, uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r0) : "r"(shared) : "memory");
}
INGOT_PTX void LoadMatrix2(uint32_t& r0, uint32_t& r1, uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r0), "=r"(r1)
               : "r"(shared)
               : "memory");
}
INGOT_PTX void LoadMatrix4(uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
               : "r"(shared)
               : "memory");
}
INGOT_PTX void LoadMatrixTransposed1(uint32_t& r0, uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r0) : "r"(shared) : "memory");
}
INGOT_PTX void LoadMatrixTransposed2(uint32_t& r0, uint32_t& r1, uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r0), "=r"(r1)
               : "r"(shared)
               : "memory");
}
INGOT_PTX void LoadMatrixTransposed4(uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
               : "r"(shared)
               : "memory");
}
INGOT_PTX void StoreMatrix2(uint32_t shared, uint32_t r0, uint32_t r1) {
#if INGOT_HOPPER
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(shared), "r"(r0), "r"(r1) : "memory");
#else
  __trap();
#endif
}
INGOT_PTX void StoreMatrix4(uint32_t shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
#if INGOT_HOPPER
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(r0), "r"(r1),
               "r"(r2), "r"(r3)
               : "memory");
#else
  __trap();
#endif
}
INGOT_PTX void StoreMatrixTransposed4(uint32_t shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
#if INGOT_HOPPER
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(r0), "r"(r1),
               "r"(r2), "r"(r3)
               : "memory");
#else
  __trap();
#endif
}

// ---- mma: d += A B
INGOT_PTX void MmaBFloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {  // m16n8k16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

INGOT_PTX void MmaHalf(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {  // m16n8k16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// m16n8k16 with sums in half: d[0] holds both columns of row group, d[1] of row group + 8.
INGOT_PTX void MmaHalfSums(uint32_t (&d)[2], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
               : "+r"(d[0]), "+r"(d[1])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

INGOT_PTX void MmaTf32(float (&d)[4], const uint32_t (&a)[4],
                       const uint32_t (&b)[2]) {  // m16n8k8; only the upper 19 bits of operands count
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

INGOT_PTX void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {  // m16n8k32
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

INGOT_PTX void MmaE4M3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {  // m16n8k32, sm_89
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

}  // namespace ingot::ptx
