// What ../ptx_copy.h declares, emulated.
#pragma once

#include "ptx_barrier.h"

namespace ingot::ptx {

void CopyAsyncBytes(uint32_t shared, const void* global, uint32_t bytes, uint32_t filled);
template <int kBytes>
void CopyAsync(uint32_t shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  CopyAsyncBytes(shared, global, kBytes, kBytes);
}
template <int kBytes>
void CopyAsyncFill(uint32_t shared, const void* global, uint32_t bytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  CopyAsyncBytes(shared, global, bytes, kBytes);
}
void CopyAsyncCommit();
void CopyAsyncWaitFor(size_t groups);
template <int kGroups>
void CopyAsyncWait() {
  CopyAsyncWaitFor(kGroups);
}

void BulkLoad(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier);
void BulkStore(void* global, uint32_t shared, uint32_t bytes);

inline void PrefetchTensorMap(const CUtensorMap*) { emulator::RequireCapability(90, "prefetch.tensormap"); }

void TensorLoadAt(uint32_t shared, const CUtensorMap* map, uint32_t barrier, const int32_t* place, uint32_t rank);
void TensorStoreAt(const CUtensorMap* map, uint32_t shared, const int32_t* place, uint32_t rank);
template <typename... Coordinates>
void TensorLoad(uint32_t shared, const CUtensorMap* map, uint32_t barrier, Coordinates... coordinates) {
  const int32_t place[] = {static_cast<int32_t>(coordinates)...};
  TensorLoadAt(shared, map, barrier, place, sizeof...(Coordinates));
}
template <typename... Coordinates>
void TensorStore(const CUtensorMap* map, uint32_t shared, Coordinates... coordinates) {
  const int32_t place[] = {static_cast<int32_t>(coordinates)...};
  TensorStoreAt(map, shared, place, sizeof...(Coordinates));
}

void BulkCommit();
void BulkWaitFor(size_t groups);
template <int kGroups>
void BulkWait() {
  BulkWaitFor(kGroups);
}
template <int kGroups>
void BulkWaitRead() {
  BulkWaitFor(kGroups);
}

}  // namespace ingot::ptx
