// Copies between global and shared memory: cp.async (sm_80), bulk copies and TMA (sm_90). Included by ptx.h.
#pragma once

#include "ptx_barrier.h"

namespace ingot::ptx {

// ---- cp.async: kBytes (4, 8 or 16, both addresses aligned to it) from global to shared memory; 16 bytes go past L1
template <int kBytes>
INGOT_PTX void CopyAsync(uint32_t shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(global), "n"(kBytes) : "memory");
  }
}

// Copies the first `bytes` (0 to kBytes) and fills up with zeros. With 0 bytes nothing is read, but `global` must be an
// address that could be.
template <int kBytes>
INGOT_PTX void CopyAsyncFill(uint32_t shared, const void* global, uint32_t bytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(global), "n"(kBytes), "r"(bytes)
                 : "memory");
  }
}

INGOT_PTX void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the kGroups latest groups of this thread are under way.
template <int kGroups>
INGOT_PTX void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// ---- Bulk copies: a multiple of 16 bytes, addresses aligned to 16. One thread issues one
INGOT_PTX void BulkLoad(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
#if INGOT_HOPPER
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void BulkStore(void* global, uint32_t shared, uint32_t bytes) {
#if INGOT_HOPPER
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared), "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

// ---- TMA: boxes of a tensor that a CUtensorMap (tensor_map.h) describes; coordinates are of elements, innermost
// first. What lies outside reads as zeros and is not written; a store's own coordinates are not negative (that would be
// an illegal instruction). The map is a `const __grid_constant__ CUtensorMap`
// parameter of the kernel. `shared` is aligned to 128 bytes ------------
INGOT_PTX void PrefetchTensorMap(const CUtensorMap* map) {
#if INGOT_HOPPER
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

INGOT_PTX void TensorLoad(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int32_t x) {
#if INGOT_HOPPER
  asm volatile(
      "cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3}], [%2];" ::"r"(
          shared),
      "l"(map), "r"(barrier), "r"(x)
      : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void TensorLoad(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int32_t x, int32_t y) {
#if INGOT_HOPPER
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void TensorLoad(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int32_t x, int32_t y, int32_t z) {
#if INGOT_HOPPER
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void TensorLoad(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int32_t x, int32_t y, int32_t z,
                          int32_t w) {
#if INGOT_HOPPER
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void TensorLoad(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int32_t x, int32_t y, int32_t z,
                          int32_t w, int32_t v) {
#if INGOT_HOPPER
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], "
      "[%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w), "r"(v)
      : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void TensorStore(const CUtensorMap* map, uint32_t shared, int32_t x, int32_t y) {
#if INGOT_HOPPER
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map), "r"(shared),
               "r"(x), "r"(y)
               : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void TensorStore(const CUtensorMap* map, uint32_t shared, int32_t x, int32_t y, int32_t z) {
#if INGOT_HOPPER
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(shared), "r"(x), "r"(y), "r"(z)
               : "memory");
#else
  __trap();
#endif
}

INGOT_PTX void TensorStore(const CUtensorMap* map, uint32_t shared, int32_t x, int32_t y, int32_t z, int32_t w) {
#if INGOT_HOPPER
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
               "r"(shared), "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
#else
  __trap();
#endif
}

// Bulk and tensor stores of this thread so far become a group.
INGOT_PTX void BulkCommit() {
#if INGOT_HOPPER
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Waits until all but the kGroups latest groups are written.
template <int kGroups>
INGOT_PTX void BulkWait() {
#if INGOT_HOPPER
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

// Waits until all but the kGroups latest groups have been read from shared memory, which can then be used again.
template <int kGroups>
INGOT_PTX void BulkWaitRead() {
#if INGOT_HOPPER
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroups) : "memory");
#endif
}

}  // namespace ingot::ptx
