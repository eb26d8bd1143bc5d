// What ../ptx_wgmma.h declares, emulated. Products happen when they are waited for.
#pragma once

#include "../ptx.h"

namespace ingot::ptx {

void WgmmaFence();
void WgmmaCommit();
void WgmmaWaitFor(size_t groups);
template <int kGroups>
void WgmmaWait() {
  WgmmaWaitFor(kGroups);
}

template <typename Sum, int kCount>
void WgmmaPin(Sum (&)[kCount]) {}

// A is null where it is in shared memory.
template <typename Type>
void WgmmaIssue(typename WgmmaType<Type>::Sum* d, int columns, const uint32_t* a_registers, uint64_t a, uint64_t b,
                int accumulate, bool transpose_a, bool transpose_b);

template <typename Type, int N, int kTransposeA = 0, int kTransposeB = 0>
void Wgmma(typename WgmmaType<Type>::Sum (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  static_assert(WgmmaType<Type>::kCanTranspose || (kTransposeA == 0 && kTransposeB == 0));
  WgmmaIssue<Type>(d, N, nullptr, a, b, accumulate, kTransposeA != 0, kTransposeB != 0);
}

template <typename Type, int N, int kTransposeB = 0>
void WgmmaRegisters(typename WgmmaType<Type>::Sum (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  static_assert(WgmmaType<Type>::kCanTranspose || kTransposeB == 0);
  WgmmaIssue<Type>(d, N, a, 0, b, accumulate, false, kTransposeB != 0);
}

}  // namespace ingot::ptx
