#include <algorithm>
#include <cstring>

#include "../ptx.h"
#include "block.h"
#include "error.h"
#include "tensor_map_layout.h"

namespace ingot::ptx {

using emulator::Abandon;
using emulator::current;
using emulator::FindBarrier;
using emulator::MemoryBarrier;
using emulator::RequireCapability;
using emulator::SharedPointer;
using emulator::TensorMapLayout;

void CopyAsyncBytes(uint32_t shared, const void* global, uint32_t bytes, uint32_t filled) {
  auto* to = static_cast<std::byte*>(SharedPointer(shared, filled, filled, "cp.async"));
  if (reinterpret_cast<uintptr_t>(global) % filled != 0)
    Abandon(Text("cp.async of ", filled, " bytes from a global address that is not a multiple of that"));
  if (bytes > filled) Abandon(Text("cp.async of ", bytes, " bytes into ", filled));
  std::memset(to, 0xff, filled);
  current->copies.open.push_back([=] {
    if (bytes > 0) std::memcpy(to, global, bytes);
    std::memset(to + bytes, 0, filled - bytes);
  });
}

void CopyAsyncCommit() { current->copies.Commit(); }
void CopyAsyncWaitFor(size_t groups) { current->copies.Wait(groups); }

namespace {

// A load that completes `bytes` of a barrier's phase: when a thread looks at the barrier next, or at once if some wait.
void Load(uint32_t address, uint32_t bytes, emulator::Action copy) {
  MemoryBarrier& barrier = FindBarrier(address);
  emulator::Action landed = [&barrier, bytes, copy = std::move(copy)] {
    copy();
    barrier.bytes -= bytes;
    emulator::Settle(barrier);
  };
  if (barrier.waiting.empty()) {
    barrier.loads.push_back(std::move(landed));
  } else {
    landed();
  }
}

void CheckBulk(const void* global, uint32_t bytes, const char* what) {
  RequireCapability(90, what);
  if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
    Abandon(Text(std::string_view(what), ": ", bytes, " bytes; size and global address must be multiples of 16"));
}

struct Box {
  TensorMapLayout map;
  std::byte* shared;
  uint32_t address;
  uint32_t bytes;
  int64_t place[5];

  // Calls body(global or nullptr if outside of the tensor, shared, bytes) for each element.
  template <typename Body>
  void ForEach(const Body& body) const {
    int64_t at[5] = {};
    for (uint32_t offset = 0; offset < bytes; offset += map.element_bytes) {
      bool inside = true;
      std::byte* global = map.data;
      for (int axis = 0; axis < map.rank; ++axis) {
        const int64_t coordinate = place[axis] + at[axis];
        inside = inside && coordinate >= 0 && coordinate < static_cast<int64_t>(map.extents[axis]);
        global += coordinate * static_cast<int64_t>(axis == 0 ? map.element_bytes : map.strides[axis - 1]);
      }
      const uint32_t swizzled = Swizzled(static_cast<Swizzle>(map.swizzle), address + offset) - address;
      body(inside ? global : nullptr, shared + static_cast<int32_t>(swizzled), map.element_bytes);
      for (int axis = 0; axis < map.rank && ++at[axis] == map.box[axis]; ++axis) at[axis] = 0;
    }
  }
};

Box MakeBox(const CUtensorMap* tensor_map, uint32_t shared, const int32_t* place, uint32_t rank, const char* what) {
  RequireCapability(90, what);
  Box box;
  box.map = emulator::ReadTensorMap(*tensor_map);
  if (box.map.magic != emulator::kTensorMapMagic)
    Abandon(Text(std::string_view(what), ": the tensor map was not made by MakeTensorMap"));
  if (box.map.rank != rank)
    Abandon(Text(std::string_view(what), ": ", rank, " coordinates for a tensor map of rank ", uint32_t{box.map.rank}));
  box.address = shared;
  box.bytes = box.map.element_bytes;
  for (uint32_t axis = 0; axis < rank; ++axis) {
    box.bytes *= box.map.box[axis];
    box.place[axis] = place[axis];
  }
  box.shared = static_cast<std::byte*>(SharedPointer(shared, box.bytes, 128, what));
  return box;
}

}  // namespace

void BulkLoad(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  CheckBulk(global, bytes, "cp.async.bulk");
  void* to = SharedPointer(shared, bytes, 16, "cp.async.bulk");
  std::memset(to, 0xff, bytes);
  Load(barrier, bytes, [=] { std::memcpy(to, global, bytes); });
}

void BulkStore(void* global, uint32_t shared, uint32_t bytes) {
  CheckBulk(global, bytes, "cp.async.bulk");
  const void* from = SharedPointer(shared, bytes, 16, "cp.async.bulk");
  current->stores.open.push_back([=] { std::memcpy(global, from, bytes); });
}

void TensorLoadAt(uint32_t shared, const CUtensorMap* map, uint32_t barrier, const int32_t* place, uint32_t rank) {
  const Box box = MakeBox(map, shared, place, rank, "cp.async.bulk.tensor");
  std::memset(box.shared, 0xff, box.bytes);
  Load(barrier, box.bytes, [box] {
    box.ForEach([&box](const std::byte* global, std::byte* to, size_t bytes) {
      if (global != nullptr) {
        std::memcpy(to, global, bytes);
      } else {
        std::memset(to, box.map.nan_fill ? 0xff : 0, bytes);
      }
    });
  });
}

void TensorStoreAt(const CUtensorMap* map, uint32_t shared, const int32_t* place, uint32_t rank) {
  const Box box = MakeBox(map, shared, place, rank, "cp.async.bulk.tensor");
  for (uint32_t axis = 0; axis < rank; ++axis) {
    if (place[axis] < 0)
      Abandon(Text("cp.async.bulk.tensor: a store to coordinate ", place[axis], " of axis ", axis,
                   "; only loads may start before a tensor"));
  }
  current->stores.open.push_back([box] {
    box.ForEach([](std::byte* global, const std::byte* from, size_t bytes) {
      if (global != nullptr) std::memcpy(global, from, bytes);
    });
  });
}

void BulkCommit() { current->stores.Commit(); }
void BulkWaitFor(size_t groups) { current->stores.Wait(groups); }

}  // namespace ingot::ptx
