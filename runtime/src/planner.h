// Where the planned values of a function lie in its arena (docs/format.md, "Memory").
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "program.h"

namespace ingot {

struct MemoryPlan {
  std::vector<size_t> offsets;  // of each value whose storage is kArena
  std::vector<size_t> sizes;    // that it was made for, in bytes
  size_t arena_bytes = 0;

  // Whether values of these sizes fit where the plan puts them.
  bool Fits(std::span<const size_t> sizes) const;
};

// Plans values of these sizes in bytes: the largest first, each to the lowest gap among those that live while it does.
MemoryPlan PlanMemory(const Function& function, std::span<const size_t> sizes);

// The plans of one function, shared by the sessions of a model. The least recently used one is dropped.
class PlanCache {
 public:
  // A plan that fits these sizes.
  std::shared_ptr<const MemoryPlan> Get(const Function& function, std::span<const size_t> sizes);
  // Makes a plan the first choice for sizes that fit it, for ever: the plan at the bounds of the dimensions.
  void SetBound(std::shared_ptr<const MemoryPlan> plan) { bound_ = std::move(plan); }

 private:
  std::shared_ptr<const MemoryPlan> bound_;
  std::mutex mutex_;
  std::list<std::shared_ptr<const MemoryPlan>> plans_;  // the one that was used last comes first
};

}  // namespace ingot
