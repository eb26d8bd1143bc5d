#include "workspace.h"

#include <algorithm>
#include <new>

#include "buffer.h"

namespace ingot {
namespace {

constexpr std::align_val_t kAlignment{kTensorAlignment};
// Functions nest a handful of scratch buffers. Beyond this many blocks, free ones that were too small are dropped.
constexpr size_t kMostBlocks = 16;

}  // namespace

Workspace::~Workspace() {
  for (const Block& block : blocks_) ::operator delete(block.memory, kAlignment);
}

void* Workspace::Allocate(size_t bytes) noexcept {
  Block* best = nullptr;
  for (Block& block : blocks_) {
    if (!block.used && block.capacity >= bytes && (best == nullptr || block.capacity < best->capacity)) best = &block;
  }
  if (best != nullptr) {
    best->used = true;
    return best->memory;
  }
  if (bytes > static_cast<size_t>(-1) / 2) return nullptr;
  if (blocks_.size() >= kMostBlocks) {
    std::erase_if(blocks_, [](const Block& block) {
      if (!block.used) ::operator delete(block.memory, kAlignment);
      return !block.used;
    });
  }
  const size_t capacity = AlignUp(std::max<size_t>(bytes, 1), kTensorAlignment);
  try {
    blocks_.reserve(blocks_.size() + 1);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  void* memory = ::operator new(capacity, kAlignment, std::nothrow);
  if (memory != nullptr) blocks_.push_back({memory, capacity, true});
  return memory;
}

void Workspace::Free(void* memory) noexcept {
  for (Block& block : blocks_) {
    if (block.memory == memory) block.used = false;
  }
}

}  // namespace ingot
