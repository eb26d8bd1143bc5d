// The threads of a model, shared by its generated code and its kernels.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <span>
#include <thread>
#include <vector>

#include "function_ref.h"
#include "workspace.h"

namespace ingot {

// What generated code sees of a parallel region (TVM's TVMParallelGroupEnv).
struct TaskEnvironment {
  void* unused;
  int32_t num_task;
};
using Task = int (*)(int32_t task_id, TaskEnvironment* environment, void* data);

// Runs one parallel region at a time. Each thread begins with its own share of the tasks, the same part of every
// region, so that what it finds in its caches is what it wrote in the region before; then it takes tasks from the ends
// of the others' shares. A region that starts while another one runs, from inside it or from another session, runs on
// its caller's thread alone: threads never outnumber the pool's. Workers start with the first region, spin briefly
// after each, and sleep otherwise: to a caller who runs a model again and again they are awake.
class ThreadPool {
 public:
  explicit ThreadPool(int32_t threads) : threads_(threads), shares_(static_cast<size_t>(threads)) {}
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int32_t threads() const { return threads_; }

  // Runs task(0), …, task(num_tasks - 1); 0 tasks means one for each thread. Returns 0, or -1 if one of them failed.
  int Launch(Task task, void* data, int32_t num_tasks);

  // Runs body(begin, end) over parts of [0, count) of at least `grain` each. Throws what the first failing part threw.
  void ParallelFor(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> body);

  // Says what a region after the next one will read from start to end, each thread its part. A thread that waits
  // fetches the first of its own.
  void Expect(std::span<const std::byte> memory);

  // While one lives, the calling thread's launches go to `pool` and its scratch memory comes from `workspace`.
  class Run {
   public:
    Run(ThreadPool& pool, Workspace& workspace);
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

   private:
    ThreadPool* outer_pool_;
    Workspace* outer_workspace_;
  };

  // Those of the calling thread's run; nullptr outside of one.
  static ThreadPool* Current();
  static Workspace* CurrentWorkspace();

 private:
  void StartWorkers();
  void Work(size_t own);
  void RunTasks(size_t own);
  bool RunOneTask(size_t share, bool from_end);
  void AwaitTasks();
  bool FetchExpected();
  template <typename Done>
  bool SpinUntil(Done&& done);

  const int32_t threads_;
  std::vector<std::thread> workers_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> busy_{false};  // held while a region runs
  bool started_ = false;           // guarded by busy_

  // The region. A thread's unclaimed tasks are one word: the first of them in the upper half, the end in the lower. The
  // region cannot end before a claimed task has, so who claims one may read the region.
  struct alignas(64) Share {
    std::atomic<uint64_t> unclaimed{0};
  };
  std::vector<Share> shares_;
  std::atomic<uint32_t> signal_{0};  // counts regions; what workers sleep on
  std::atomic<int32_t> pending_{0};  // tasks that have not finished
  std::atomic<bool> failed_{false};
  std::atomic<const std::byte*> expected_{nullptr};
  std::atomic<size_t> expected_bytes_{0};  // of each thread
  Task task_ = nullptr;
  void* data_ = nullptr;
  int32_t num_tasks_ = 0;
};

}  // namespace ingot
