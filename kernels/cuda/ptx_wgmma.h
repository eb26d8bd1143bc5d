// wgmma (sm_90a): products of a warpgroup, four warps whose first is a multiple of four, d (64 x N) = or += A (64 x K)
// B (K x N), with K of 32 bytes. Included by ptx.h.
//
// A is in shared memory, behind a descriptor, or in registers; B is in dynamic shared memory. Products run
// asynchronously, in order:
//
//   WgmmaFence();  // before the first, and whenever registers of d or A were written by other instructions
//
//   Wgmma<__nv_bfloat16, 128>(d, a, b, k > 0);  // for each k
//
//   WgmmaCommit();
//
//   WgmmaWait<0>();  // before d is read, or A's registers or memory are written
//
// Threads that wrote operands to shared memory call FenceProxyAsync() before the barrier that says so; TMA's writes
// need none.
//
// Fragments: warp w of the warpgroup has rows 16 w to 16 w + 15. With group = lane / 4, pair = lane % 4, columns c = 8
// j + 2 pair: d[4 j] and d[4 j + 1] are (row group, c and c + 1), d[4 j + 2] and d[4 j + 3] those of row group + 8. A
// in registers is like that of mma.sync m16n8k16 (ptx_mma.h).
#pragma once

#include <type_traits>

#include "ptx.h"

namespace ingot::ptx {

// A matrix in shared memory for wgmma. `address` is of its first element; a multiple of 16.
//
// K-major (K is contiguous: A as [M, K], B as [N, K]). Rows are as wide as the swizzle says (128, 64, 32 bytes; 16 with
// kNone), in groups of 8 rows that are one after another; `stride_bytes` is the distance between groups (1,024 for k128
// if they are contiguous), `leading_bytes` has no meaning but with kNone, where it is the distance between the two
// 16-byte halves of K. For the next 32 bytes of K inside of a row, advance the address by 32 (the descriptor by 2),
// swizzle or not.
//
// MN-major (16-bit types only, kTranspose = 1: A as [K, M], B as [K, N]). Rows are along M or N (64 elements for k128),
// a group of 8 of them is 8 consecutive k. `stride_bytes` is the distance to the next 8 k, `leading_bytes` that to the
// next 64 (k128), 32 (k64), 16 (k32) elements of M or N. With kNone, rows are 8 elements wide, `leading_bytes` is the
// distance to the next 8 k and `stride_bytes` to the next 8 of M or N.
//
// With a swizzle, groups of rows (8 times the width) start at multiples of their size; the bits of the address decide.
__host__ __device__ __forceinline__ constexpr uint64_t MatrixDescriptor(uint32_t address, uint32_t leading_bytes,
                                                                        uint32_t stride_bytes, Swizzle swizzle) {
  const uint64_t descriptor =
      static_cast<uint64_t>((address >> 4) & 0x3fff) | static_cast<uint64_t>((leading_bytes >> 4) & 0x3fff) << 16 |
      static_cast<uint64_t>((stride_bytes >> 4) & 0x3fff) << 32 | static_cast<uint64_t>(swizzle) << 62;
#if defined(INGOT_EMULATE)
  // The emulator puts static shared memory where descriptors do not reach; this bit makes it say so.
  if (address >= 1 << 18) return descriptor | 1 << 14;
#endif
  return descriptor;
}

// What products of a type add up in, and whether they can read operands MN-major.
template <typename Type>
struct WgmmaType {
  using Sum = float;
  static constexpr bool kCanTranspose = std::is_same_v<Type, __nv_bfloat16> || std::is_same_v<Type, __half>;
};
template <>
struct WgmmaType<int8_t> {
  using Sum = int32_t;
  static constexpr bool kCanTranspose = false;
};

}  // namespace ingot::ptx

#if defined(INGOT_EMULATE)
#include "emulator/ptx_wgmma.h"
#else
#include "ptx_wgmma_instructions.h"

namespace ingot::ptx {

INGOT_PTX void WgmmaFence() {
#if INGOT_HOPPER
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

INGOT_PTX void WgmmaCommit() {
#if INGOT_HOPPER
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until at most the kGroups latest groups are under way.
template <int kGroups>
INGOT_PTX void WgmmaWait() {
#if INGOT_HOPPER
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
#endif
}

// Keeps the compiler from moving uses of an accumulator across a wait.
template <typename Sum, int kCount>
INGOT_PTX void WgmmaPin(Sum (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (std::is_same_v<Sum, float>) {
      asm volatile("" : "+f"(d[i])::"memory");
    } else {
      asm volatile("" : "+r"(d[i])::"memory");
    }
  }
}

// d = (accumulate ? d : 0) + A B. Type: __nv_bfloat16, __half, Tf32, __nv_fp8_e4m3 or int8_t; N: 8, 16, 32, 64, 96,
// 128, 192 or 256.
template <typename Type, int N, int kTransposeA = 0, int kTransposeB = 0>
INGOT_PTX void Wgmma(typename WgmmaType<Type>::Sum (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  static_assert(WgmmaType<Type>::kCanTranspose || (kTransposeA == 0 && kTransposeB == 0));
#if INGOT_HOPPER
  WgmmaInstruction<Type, N>::template Shared<kTransposeA, kTransposeB>(d, a, b, accumulate);
#else
  __trap();
#endif
}

template <typename Type, int N, int kTransposeB = 0>
INGOT_PTX void WgmmaRegisters(typename WgmmaType<Type>::Sum (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,
                              int accumulate) {
  static_assert(WgmmaType<Type>::kCanTranspose || kTransposeB == 0);
#if INGOT_HOPPER
  WgmmaInstruction<Type, N>::template Registers<kTransposeB>(d, a, b, accumulate);
#else
  __trap();
#endif
}

}  // namespace ingot::ptx
#endif
