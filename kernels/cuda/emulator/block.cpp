#include "block.h"

#include <link.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "emulator.h"
#include "error.h"

namespace ingot::emulator {

Block block;
Thread* current = nullptr;
uint3 block_index;
dim3 block_extent;
dim3 grid_extent;

namespace {

int capability = 90;

// PTX addresses: dynamic shared memory lies where it does on Hopper, static shared memory where no dynamic memory
// reaches.
constexpr uint32_t kDynamicBase = 1024;
constexpr uint32_t kStaticBase = 1 << 24;
constexpr size_t kMostShared = 227 * 1024;
constexpr size_t kGuard = 64 * 1024;  // what lies behind dynamic shared memory must not change
constexpr unsigned char kPoison = 0xff;

struct Memory {
  std::byte* dynamic = nullptr;
  size_t dynamic_bytes = 0;
  std::byte* fixed = nullptr;  // aligned down to 1,024 bytes
  size_t fixed_offset = 0;
  size_t fixed_bytes = 0;
};
Memory memory;

thread_local std::byte shared_memory_marker;

// Where this library's thread-local memory is: the static shared memory of all kernels.
int FindStatic(dl_phdr_info* info, size_t, void*) {
  const auto marker = reinterpret_cast<uintptr_t>(&shared_memory_marker);
  const auto start = reinterpret_cast<uintptr_t>(info->dlpi_tls_data);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_TLS || marker < start || marker >= start + header.p_memsz) continue;
    const uintptr_t aligned = start & ~uintptr_t{1023};
    memory.fixed = reinterpret_cast<std::byte*>(aligned);
    memory.fixed_offset = start - aligned;
    memory.fixed_bytes = memory.fixed_offset + header.p_memsz;
    return 1;
  }
  return 0;
}

void PrepareMemory(size_t shared_bytes) {
  if (memory.dynamic == nullptr) {
    void* mapped = mmap(nullptr, kMostShared + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                        0);  // of whole pages
    if (mapped == MAP_FAILED) Fail(INGOT_ERROR_MEMORY, "no memory for the emulator's shared memory");
    memory.dynamic = static_cast<std::byte*>(mapped);
  }
  // Thread-local memory is another for each host thread.
  memory.fixed = nullptr;
  dl_iterate_phdr(FindStatic, nullptr);
  memory.dynamic_bytes = shared_bytes;
}

size_t SharedLimit() {
  if (capability >= 90) return 227 * 1024;
  return capability == 80 || capability == 87 ? 163 * 1024 : 99 * 1024;
}

uint64_t Random() {
  block.random ^= block.random << 13;
  block.random ^= block.random >> 7;
  block.random ^= block.random << 17;
  return block.random;
}

std::string Place(uint3 index) { return Text("(", index.x, ", ", index.y, ", ", index.z, ")"); }

void ThreadEntry() {
  try {
    (*block.body)();
  } catch (const std::exception& error) {
    Abandon(error.what());
  }
  Thread& thread = *current;
  if (!thread.stores.Empty()) Abandon("a thread ended before its bulk stores had been waited for (BulkWaitRead)");
  thread.done = true;
  --block.live;
  // __syncthreads waits for threads that have not ended.
  NamedBarrier& all = block.barriers[0];
  if (all.expected == UINT32_MAX && all.arrived == block.live && block.live > 0) {
    for (Thread* waiting : all.waiting) Wake(*waiting);
    all = {};
  }
  SwitchFiber(thread.fiber, block.scheduler);
  std::abort();  // nobody continues a thread that is done
}

// "threads 0 to 31 and 64 wait for ...", one line for each thing that is waited for.
std::string DeadlockText() {
  std::map<std::string, std::vector<uint32_t>> reasons;
  for (const Thread& thread : block.threads) {
    std::string reason;
    if (thread.done) {
      reason = "have ended";
    } else {
      reason = Text("wait in ", std::string_view(thread.wait));
      if (std::string_view(thread.wait) == "mbarrier.try_wait") {
        const MemoryBarrier& barrier = block.memory_barriers[thread.detail[0]];
        AppendText(reason, Text(" for phase ", thread.detail[1], " of the mbarrier at ", thread.detail[0],
                                ", which is in phase ", barrier.phase & 1, " and lacks ", barrier.pending, " of ",
                                barrier.expected, " arrivals and ", barrier.bytes, " bytes"));
      } else if (std::string_view(thread.wait) == "bar.sync") {
        const NamedBarrier& barrier = block.barriers[thread.detail[0]];
        AppendText(reason, Text(" at barrier ", thread.detail[0], ", where ", barrier.arrived, " of ", barrier.expected,
                                " threads are"));
      }
    }
    reasons[reason].push_back(thread.number);
  }
  std::string text = "no thread can go on:";
  for (const auto& [reason, threads] : reasons) {
    AppendText(text, text.back() == ':' ? " threads" : "; threads");
    for (size_t i = 0; i < threads.size(); ++i) {
      size_t last = i;
      while (last + 1 < threads.size() && threads[last + 1] == threads[last] + 1) ++last;
      AppendText(text, Text(i == 0 ? " " : ", ", threads[i]));
      if (last > i) AppendText(text, Text(" to ", threads[last]));
      i = last;
    }
    AppendText(text, Text(" ", reason));
  }
  return text;
}

// Runs the block whose threads are set up. Empty, or what went wrong.
void RunBlock(size_t shared_bytes, size_t threads) {
  std::memset(memory.dynamic, kPoison, shared_bytes + kGuard);
  std::memset(memory.fixed + memory.fixed_offset, kPoison, memory.fixed_bytes - memory.fixed_offset);
  block.threads.resize(threads);
  block.warps.assign((threads + 31) / 32, Warp{});
  block.ready.clear();
  block.barriers.fill(NamedBarrier{});
  block.memory_barriers.clear();
  block.failure.clear();
  block.live = static_cast<uint32_t>(threads);
  for (size_t i = 0; i < threads; ++i) {
    Thread& thread = block.threads[i];
    thread.number = static_cast<uint32_t>(i);
    thread.index = make_uint3(static_cast<uint32_t>(i % block_extent.x),
                              static_cast<uint32_t>(i / block_extent.x % block_extent.y),
                              static_cast<uint32_t>(i / block_extent.x / block_extent.y));
    thread.done = false;
    thread.wait = nullptr;
    thread.copies.Clear();
    thread.stores.Clear();
    StartFiber(thread.fiber, FiberStack(i), kStackBytes, ThreadEntry);
    block.ready.push_back(&thread);
  }
  while (!block.ready.empty() && block.failure.empty()) {
    std::swap(block.ready[Random() % block.ready.size()], block.ready.back());
    current = block.ready.back();
    block.ready.pop_back();
    SwitchFiber(block.scheduler, current->fiber);
  }
  if (block.failure.empty()) {
    if (block.live > 0) block.failure = DeadlockText();
    for (const Warp& warp : block.warps) {
      if (block.failure.empty() && !warp.products.Empty())
        block.failure = "the block ended before its wgmma products had been waited for";
    }
    for (const auto& [address, barrier] : block.memory_barriers) {
      if (block.failure.empty() && !barrier.loads.empty())
        block.failure = Text("the block ended before bulk loads for the mbarrier at ", address, " had been waited for");
    }
    for (size_t i = shared_bytes; i < shared_bytes + kGuard && block.failure.empty(); ++i) {
      if (memory.dynamic[i] != std::byte{kPoison})
        block.failure = Text("a thread wrote ", i - shared_bytes, " bytes behind the ", shared_bytes,
                             " bytes of dynamic shared memory");
    }
  } else {
    block.failure = Text("thread ", Place(current->index), ": ", block.failure);
  }
  current = nullptr;
}

}  // namespace

void AsyncGroups::Wait(size_t kept) {
  while (groups.size() > kept) {
    for (const Action& action : groups.front()) action();
    groups.pop_front();
  }
}

bool AsyncGroups::Empty() const {
  if (!open.empty()) return false;
  for (const auto& group : groups) {
    if (!group.empty()) return false;
  }
  return true;
}

void Abandon(const std::string& message) {
  block.failure = message;
  SwitchFiber(current->fiber, block.scheduler);
  std::abort();  // nobody continues a thread of a block that failed
}

void Wait(const char* what, uint32_t first, uint32_t second) {
  Thread& thread = *current;
  thread.wait = what;
  thread.detail[0] = first;
  thread.detail[1] = second;
  SwitchFiber(thread.fiber, block.scheduler);
  thread.wait = nullptr;
}

void Wake(Thread& thread) { block.ready.push_back(&thread); }

void Yield() {
  Wake(*current);
  Wait("a pause");
}

void Trap(const char* what) { Abandon(what); }

void Settle(MemoryBarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.expected;
  for (Thread* thread : std::exchange(barrier.waiting, {})) Wake(*thread);
}

MemoryBarrier& FindBarrier(uint32_t address) {
  SharedPointer(address, 8, 8, "an mbarrier");
  const auto found = block.memory_barriers.find(address);
  if (found == block.memory_barriers.end()) Abandon(Text("the mbarrier at ", address, " is not initialized"));
  return found->second;
}

cudaError_t Run(dim3 grid, dim3 extent, size_t shared_bytes, const std::function<void()>& kernel) {
  const size_t threads = static_cast<size_t>(extent.x) * extent.y * extent.z;
  if (threads == 0 || threads > 1024 || extent.z > 64 || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (shared_bytes > SharedLimit()) return cudaErrorInvalidValue;
  PrepareMemory(shared_bytes);
  const char* seed = std::getenv("INGOT_EMULATOR_SEED");
  block.random = 0x9e3779b97f4a7c15u * (seed == nullptr || *seed == '\0' ? 1 : std::strtoull(seed, nullptr, 10) + 1);
  block.body = &kernel;
  block_extent = extent;
  grid_extent = grid;
  for (block_index.z = 0; block_index.z < grid.z; ++block_index.z) {
    for (block_index.y = 0; block_index.y < grid.y; ++block_index.y) {
      for (block_index.x = 0; block_index.x < grid.x; ++block_index.x) {
        RunBlock(shared_bytes, threads);
        if (!block.failure.empty())
          Fail(INGOT_ERROR_EXECUTION, "emulated block ", Place(block_index), ": ", block.failure);
      }
    }
  }
  return cudaSuccess;
}

void SetCapability(int value) { capability = value; }
int Capability() { return capability; }

void RequireCapability(int needed, const char* what) {
  if (capability < needed)
    Abandon(Text(std::string_view(what), " needs compute capability ", needed / 10, ".", needed % 10,
                 "; this is run as ", capability / 10, ".", capability % 10));
}

uint3 ThreadIndex() { return current->index; }
void* DynamicShared() { return memory.dynamic; }

uint32_t SharedNumber(const void* pointer) {
  const auto* address = static_cast<const std::byte*>(pointer);
  if (address >= memory.dynamic && address <= memory.dynamic + memory.dynamic_bytes)
    return kDynamicBase + static_cast<uint32_t>(address - memory.dynamic);
  if (address >= memory.fixed + memory.fixed_offset && address <= memory.fixed + memory.fixed_bytes)
    return kStaticBase + static_cast<uint32_t>(address - memory.fixed);
  Abandon("SharedAddress of a pointer that does not point into shared memory");
}

void* SharedPointer(uint32_t address, size_t bytes, size_t alignment, const char* what) {
  if (address % alignment != 0)
    Abandon(Text(std::string_view(what), ": shared address ", address, " is not a multiple of ", alignment));
  if (address >= kDynamicBase && address + bytes <= kDynamicBase + memory.dynamic_bytes)
    return memory.dynamic + (address - kDynamicBase);
  if (address >= kStaticBase + memory.fixed_offset && address + bytes <= kStaticBase + memory.fixed_bytes)
    return memory.fixed + (address - kStaticBase);
  Abandon(Text(std::string_view(what), ": ", bytes, " bytes at shared address ", address,
               " are outside of the block's shared memory (", memory.dynamic_bytes, " bytes of dynamic memory from ",
               kDynamicBase, " on)"));
}

void Collect(const char* instruction, void* arguments, void (*execute)(void* const* lanes)) {
  if (block.threads.size() % 32 != 0)
    Abandon(Text(std::string_view(instruction), " in a block of ", block.threads.size(),
                 " threads, which is no multiple of 32"));
  Warp& warp = CurrentWarp();
  if (warp.arrived != 0 && std::strcmp(warp.instruction, instruction) != 0)
    Abandon(Text("lanes of warp ", current->number / 32, " execute different instructions together: ",
                 std::string_view(warp.instruction), " and ", std::string_view(instruction)));
  warp.instruction = instruction;
  warp.arguments[current->number % 32] = arguments;
  if (++warp.arrived < 32) {
    Wait(instruction);
    return;
  }
  warp.arrived = 0;
  execute(warp.arguments.data());
  Thread* const first = &block.threads[current->number / 32 * 32];
  for (int lane = 0; lane < 32; ++lane) {
    if (first + lane != current) Wake(first[lane]);
  }
}

void SyncThreads() {
  NamedBarrier& barrier = block.barriers[0];
  if (barrier.expected != 0 && barrier.expected != UINT32_MAX)
    Abandon("__syncthreads while threads are at named barrier 0");
  barrier.expected = UINT32_MAX;
  if (++barrier.arrived < block.live) {
    barrier.waiting.push_back(current);
    Wait("__syncthreads");
    return;
  }
  for (Thread* waiting : barrier.waiting) Wake(*waiting);
  barrier = {};
}

}  // namespace ingot::emulator

// ---- What -fsanitize=alignment,bounds calls ------------------------------------------------------------------------
namespace {

struct SourceLocation {
  const char* file;
  uint32_t line;
  uint32_t column;
};

[[noreturn]] void Report(const SourceLocation& place, const std::string& problem) {
  const std::string text = ingot::Text(std::string_view(place.file), ":", place.line, ": ", problem);
  if (ingot::emulator::current != nullptr) ingot::emulator::Abandon(text);
  std::fputs((text + "\n").c_str(), stderr);
  std::abort();
}

}  // namespace

extern "C" {
[[gnu::visibility("hidden")]] void __ubsan_handle_type_mismatch_v1(SourceLocation* place, uintptr_t pointer) {
  Report(*place, ingot::Text("the address ", pointer, " is not aligned to the type that is read or written"));
}
[[gnu::visibility("hidden")]] void __ubsan_handle_out_of_bounds(SourceLocation* place, uintptr_t index) {
  Report(*place, ingot::Text("the index ", static_cast<int64_t>(index), " is outside of the array"));
}
}
