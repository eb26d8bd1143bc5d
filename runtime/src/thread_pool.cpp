#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ingot {
namespace {

// Steps of a model follow one another within microseconds, but a part of one may end a hundred before the others;
// waking a sleeping thread takes 5 to 100, in which the caller takes its part too. So one that sleeps once stays late
// for a whole row of short steps.
constexpr std::chrono::microseconds kSpin{200};

// Of each thread's part, a quarter of a second-level cache of a MiB.
constexpr size_t kMostExpected = 256 << 10;
constexpr int kLinesAtOnce = 8;
constexpr int kLine = 64;

// A thread's part of what is expected, of which what lies before `next` has been fetched.
struct Expected {
  const std::byte* memory = nullptr;  // of all threads
  const std::byte* next = nullptr;
  const std::byte* end = nullptr;
};

struct ThreadContext {
  ThreadPool* pool = nullptr;
  Workspace* workspace = nullptr;
  bool in_region = false;
  size_t own = 0;  // its place in the pool
  Expected expected;
};
thread_local ThreadContext t_context;

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  __asm__ volatile("yield");
#endif
}

int RunInline(Task task, void* data, int32_t num_tasks) {
  TaskEnvironment environment{nullptr, std::max(num_tasks, 1)};
  int result = 0;
  for (int32_t id = 0; id < environment.num_task; ++id) {
    if (task(id, &environment, data) != 0) result = -1;
  }
  return result;
}

}  // namespace

ThreadPool* ThreadPool::Current() { return t_context.pool; }
Workspace* ThreadPool::CurrentWorkspace() { return t_context.workspace; }

ThreadPool::Run::Run(ThreadPool& pool, Workspace& workspace)
    : outer_pool_(t_context.pool), outer_workspace_(t_context.workspace) {
  t_context.pool = &pool;
  t_context.workspace = &workspace;
}

ThreadPool::Run::~Run() {
  t_context.pool = outer_pool_;
  t_context.workspace = outer_workspace_;
}

void ThreadPool::Expect(std::span<const std::byte> memory) {
  // Between the two stores a thread may fetch what nobody expects, which does no harm: fetching does not fault.
  expected_bytes_.store(memory.size() / static_cast<size_t>(threads_), std::memory_order_relaxed);
  expected_.store(memory.data(), std::memory_order_relaxed);
}

// Whether there was something to fetch.
bool ThreadPool::FetchExpected() {
  Expected& own = t_context.expected;
  const std::byte* memory = expected_.load(std::memory_order_relaxed);
  if (memory != own.memory) {
    const size_t bytes = expected_bytes_.load(std::memory_order_relaxed);
    const std::byte* next = memory + t_context.own * bytes;
    own = {memory, next, next + std::min(bytes, kMostExpected)};
  }
  if (own.next >= own.end) return false;
  for (int line = 0; line < kLinesAtOnce; ++line) __builtin_prefetch(own.next + line * kLine, 0, 2);
  own.next += kLinesAtOnce * kLine;
  return true;
}

// Spins until `done` or for kSpin; whether `done` came true.
template <typename Done>
bool ThreadPool::SpinUntil(Done&& done) {
  if (done()) return true;
  constexpr int kPausesPerLookAtTheClock = 32;
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerLookAtTheClock; ++i) {
      if (done()) return true;
      if (!FetchExpected()) Pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  signal_.fetch_add(1);
  signal_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::StartWorkers() {
  started_ = true;
  workers_.reserve(static_cast<size_t>(threads_ - 1));
  try {
    while (static_cast<int32_t>(workers_.size()) < threads_ - 1)
      workers_.emplace_back([this, own = workers_.size() + 1] { Work(own); });
  } catch (const std::system_error&) {
    // The process may have no more threads. Those that started, and the caller's, do the work.
  }
}

int ThreadPool::Launch(Task task, void* data, int32_t num_tasks) {
  if (threads_ == 1 || num_tasks == 1 || t_context.in_region || busy_.exchange(true, std::memory_order_acquire)) {
    return RunInline(task, data, num_tasks);
  }
  if (!started_) StartWorkers();
  task_ = task;
  data_ = data;
  num_tasks_ = num_tasks > 0 ? num_tasks : threads_;
  failed_.store(false, std::memory_order_relaxed);
  pending_.store(num_tasks_, std::memory_order_relaxed);
  const auto count = static_cast<uint64_t>(num_tasks_);
  for (size_t i = 0; i < shares_.size(); ++i) {
    shares_[i].unclaimed.store((count * i / shares_.size()) << 32 | count * (i + 1) / shares_.size(),
                               std::memory_order_release);
  }
  signal_.fetch_add(1, std::memory_order_seq_cst);
  signal_.notify_all();

  t_context.in_region = true;
  RunTasks(0);
  t_context.in_region = false;
  AwaitTasks();
  const bool failed = failed_.load(std::memory_order_relaxed);
  busy_.store(false, std::memory_order_release);
  return failed ? -1 : 0;
}

void ThreadPool::RunTasks(size_t own) {
  while (RunOneTask(own, false)) {
  }
  for (size_t i = 1; i < shares_.size(); ++i) {
    while (RunOneTask((own + i) % shares_.size(), true)) {
    }
  }
}

bool ThreadPool::RunOneTask(size_t share, bool from_end) {
  std::atomic<uint64_t>& unclaimed = shares_[share].unclaimed;
  uint64_t seen = unclaimed.load(std::memory_order_acquire);
  uint64_t first = 0;
  uint64_t end = 0;
  uint64_t left = 0;
  do {
    first = seen >> 32;
    end = seen & 0xFFFFFFFF;
    if (first == end) return false;
    left = from_end ? seen - 1 : seen + (uint64_t{1} << 32);
  } while (!unclaimed.compare_exchange_weak(seen, left, std::memory_order_acq_rel, std::memory_order_acquire));
  TaskEnvironment environment{nullptr, num_tasks_};
  const auto id = static_cast<int32_t>(from_end ? end - 1 : first);
  if (task_(id, &environment, data_) != 0) failed_.store(true, std::memory_order_relaxed);
  if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  return true;
}

void ThreadPool::AwaitTasks() {
  const auto done = [this] { return pending_.load(std::memory_order_acquire) == 0; };
  if (SpinUntil(done)) return;
  while (!done()) {
    const int32_t pending = pending_.load(std::memory_order_acquire);
    if (pending != 0) pending_.wait(pending, std::memory_order_acquire);
  }
}

void ThreadPool::Work(size_t own) {
  Workspace workspace;
  t_context = {this, &workspace, true, own, {}};
  while (!stopping_.load(std::memory_order_acquire)) {
    const uint32_t signal = signal_.load(std::memory_order_seq_cst);
    RunTasks(own);
    bool woken = false;
    SpinUntil([&] {
      woken = signal_.load(std::memory_order_relaxed) != signal;
      return woken || stopping_.load(std::memory_order_relaxed);
    });
    if (!woken && !stopping_.load(std::memory_order_acquire)) signal_.wait(signal, std::memory_order_seq_cst);
  }
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) {
  if (count <= 0) return;
  struct Region {
    FunctionRef<void(int64_t, int64_t)> body;
    int64_t count;
    std::mutex mutex;
    std::exception_ptr error;
  } region{body, count, {}, {}};
  const int64_t parts = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, threads_);
  const Task task = [](int32_t id, TaskEnvironment* environment, void* data) {
    auto& shared = *static_cast<Region*>(data);
    // Extents leave room for the product: a tensor has fewer than 2^47 bytes, a machine fewer than 2^15 threads.
    const int64_t begin = shared.count * id / environment->num_task;
    const int64_t end = shared.count * (id + 1) / environment->num_task;
    try {
      shared.body(begin, end);
      return 0;
    } catch (...) {
      std::lock_guard lock(shared.mutex);
      if (!shared.error) shared.error = std::current_exception();
      return -1;
    }
  };
  Launch(task, &region, static_cast<int32_t>(parts));
  if (region.error) std::rethrow_exception(region.error);
}

}  // namespace ingot
