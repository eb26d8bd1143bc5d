// Scratch memory of generated code and kernels: blocks that one thread takes and gives back within a step, and that are
// kept for its next ones.
#pragma once

#include <cstddef>
#include <vector>

namespace ingot {

class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // 64-byte aligned; nullptr if memory ran out.
  void* Allocate(size_t bytes) noexcept;
  void Free(void* block) noexcept;

 private:
  struct Block {
    void* memory;
    size_t capacity;
    bool used;
  };
  std::vector<Block> blocks_;
};

}  // namespace ingot
