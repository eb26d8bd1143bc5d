#include <utility>

#include "../ptx.h"
#include "block.h"
#include "error.h"

namespace ingot::ptx {

using emulator::Abandon;
using emulator::block;
using emulator::FindBarrier;
using emulator::MemoryBarrier;
using emulator::NamedBarrier;
using emulator::RequireCapability;

void BarrierInit(uint32_t barrier, uint32_t count) {
  emulator::SharedPointer(barrier, 8, 8, "mbarrier.init");
  if (count == 0 || count >= 1 << 20) Abandon(Text("mbarrier.init with a count of ", count));
  if (block.memory_barriers.contains(barrier))
    Abandon(Text("mbarrier.init of the mbarrier at ", barrier, ", which is initialized"));
  MemoryBarrier state;
  state.expected = count;
  state.pending = count;
  block.memory_barriers[barrier] = std::move(state);
}

void BarrierInvalidate(uint32_t barrier) {
  if (!FindBarrier(barrier).waiting.empty())
    Abandon(Text("mbarrier.inval of the mbarrier at ", barrier, ", for which threads wait"));
  block.memory_barriers.erase(barrier);
}

namespace {

void Arrive(uint32_t address, const char* what) {
  MemoryBarrier& barrier = FindBarrier(address);
  if (barrier.pending == 0)
    Abandon(Text(std::string_view(what), ": more than ", barrier.expected, " arrivals in a phase of the mbarrier at ",
                 address));
  --barrier.pending;
  emulator::Settle(barrier);
}

}  // namespace

void BarrierArrive(uint32_t barrier) { Arrive(barrier, "mbarrier.arrive"); }

void BarrierExpect(uint32_t barrier, uint32_t bytes) {
  RequireCapability(90, "mbarrier.expect_tx");
  FindBarrier(barrier).bytes += bytes;
}

void BarrierArriveExpect(uint32_t barrier, uint32_t bytes) {
  BarrierExpect(barrier, bytes);
  Arrive(barrier, "mbarrier.arrive.expect_tx");
}

bool BarrierTryWait(uint32_t address, uint32_t parity) {
  RequireCapability(90, "mbarrier.try_wait");
  if (parity > 1) Abandon(Text("mbarrier.try_wait with parity ", parity));
  MemoryBarrier& barrier = FindBarrier(address);
  for (const emulator::Action& load : std::exchange(barrier.loads, {})) load();
  if ((barrier.phase & 1) != parity) return true;
  barrier.waiting.push_back(emulator::current);
  emulator::Wait("mbarrier.try_wait", address, parity);
  return true;
}

void CopyAsyncArrive(uint32_t barrier) {
  emulator::AsyncGroups& copies = emulator::current->copies;
  copies.Commit();
  copies.Wait(0);
  Arrive(barrier, "cp.async.mbarrier.arrive");
}

namespace {

NamedBarrier& Enter(uint32_t barrier, uint32_t threads, const char* what) {
  if (barrier >= block.barriers.size()) Abandon(Text(std::string_view(what), ": there is no barrier ", barrier));
  if (threads == 0 || threads % 32 != 0 || threads > block.threads.size())
    Abandon(Text(std::string_view(what), ": ", threads, " threads, in a block of ", block.threads.size()));
  NamedBarrier& state = block.barriers[barrier];
  if (state.expected != 0 && state.expected != threads)
    Abandon(Text(std::string_view(what), ": barrier ", barrier, " for ", threads,
                 " threads, while others are there for ", state.expected));
  state.expected = threads;
  ++state.arrived;
  return state;
}

// Whether all have come; then the barrier is as before.
bool Complete(NamedBarrier& state) {
  if (state.arrived < state.expected) return false;
  for (emulator::Thread* thread : state.waiting) emulator::Wake(*thread);
  state = {};
  return true;
}

}  // namespace

void NamedSync(uint32_t barrier, uint32_t threads) {
  NamedBarrier& state = Enter(barrier, threads, "bar.sync");
  if (Complete(state)) return;
  state.waiting.push_back(emulator::current);
  emulator::Wait("bar.sync", barrier);
}

void NamedArrive(uint32_t barrier, uint32_t threads) { Complete(Enter(barrier, threads, "bar.arrive")); }

bool Elect() {
  struct Nothing {
  } nothing;
  emulator::Collective("elect.sync", nothing, [](Nothing* const*) {});
  return emulator::current->number % 32 == 0;
}

}  // namespace ingot::ptx
