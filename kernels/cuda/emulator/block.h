// A block of emulated threads: which of them can run, what the others wait for, and the state of barriers and of copies
// and products under way. Only the emulator's own files include this.
#pragma once

#include <vector_types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

namespace ingot::emulator {

using Action = std::function<void()>;

// What was issued and has yet to happen, in groups: the last of `groups` is the latest that was committed.
struct AsyncGroups {
  std::vector<Action> open;
  std::deque<std::vector<Action>> groups;

  void Commit() { groups.push_back(std::exchange(open, {})); }
  // Lets all but the latest `kept` groups happen.
  void Wait(size_t kept);
  bool Empty() const;
  void Clear() {
    open.clear();
    groups.clear();
  }
};

struct Thread {
  Fiber fiber;
  uint3 index;
  uint32_t number = 0;
  bool done = false;
  // While it waits: for what, and an address, barrier or parity of it.
  const char* wait = nullptr;
  uint32_t detail[2] = {};
  AsyncGroups copies;  // cp.async
  AsyncGroups stores;  // bulk stores
};

struct Warp {
  const char* instruction = nullptr;  // the collective that some lanes have arrived at
  uint32_t arrived = 0;
  std::array<void*, 32> arguments{};
  AsyncGroups products;  // wgmma
  bool fenced = false;   // whether a wgmma.fence has come
};

struct NamedBarrier {
  uint32_t expected = 0;  // 0: nobody has arrived
  uint32_t arrived = 0;
  std::vector<Thread*> waiting;
};

struct MemoryBarrier {
  uint32_t expected = 0;
  int64_t pending = 0;
  int64_t bytes = 0;
  uint32_t phase = 0;
  std::vector<Thread*> waiting;
  std::vector<Action> loads;  // of bulk copies: they land when a thread looks at the barrier
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Thread*> ready;
  uint32_t live = 0;
  std::array<NamedBarrier, 16> barriers;
  std::map<uint32_t, MemoryBarrier> memory_barriers;  // by address
  Fiber scheduler;
  const std::function<void()>* body = nullptr;
  std::string failure;  // empty: none
  uint64_t random = 1;
};

extern Block block;
extern Thread* current;

// Ends the block with a message; for emulated threads.
[[noreturn]] void Abandon(const std::string& message);

// Lets other threads run until Wake(this thread).
void Wait(const char* what, uint32_t first = 0, uint32_t second = 0);
void Wake(Thread& thread);

// Completes the phase of a barrier if nothing is missing any more.
void Settle(MemoryBarrier& barrier);
MemoryBarrier& FindBarrier(uint32_t address);

inline Warp& CurrentWarp() { return block.warps[current->number / 32]; }

}  // namespace ingot::emulator
