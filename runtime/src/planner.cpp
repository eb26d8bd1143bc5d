#include "planner.h"

#include <algorithm>
#include <numeric>

#include "buffer.h"

namespace ingot {
namespace {

constexpr size_t kMostPlans = 16;

}  // namespace

bool MemoryPlan::Fits(std::span<const size_t> actual) const {
  return std::equal(actual.begin(), actual.end(), sizes.begin(), sizes.end(),
                    [](size_t a, size_t planned) { return a <= planned; });
}

MemoryPlan PlanMemory(const Function& function, std::span<const size_t> sizes) {
  MemoryPlan plan{std::vector<size_t>(sizes.size()), {sizes.begin(), sizes.end()}, 0};
  std::vector<size_t> order;
  for (size_t v = 0; v < sizes.size(); ++v) {
    const Value& value = function.values[v];
    if (value.storage == Storage::kArena && value.root == static_cast<int32_t>(v) && sizes[v] > 0) order.push_back(v);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes[a] > sizes[b]; });

  struct Placed {
    size_t begin;
    size_t end;
    int32_t first;
    int32_t last;
  };
  std::vector<Placed> placed;  // by offset
  placed.reserve(order.size());
  for (const size_t v : order) {
    const Value& value = function.values[v];
    const size_t size = AlignUp(sizes[v], kTensorAlignment);
    size_t offset = 0;
    for (const Placed& other : placed) {
      if (other.last < value.definition || other.first > value.last_use) continue;
      if (other.begin >= offset + size) break;  // it fits into the gap before this one
      offset = std::max(offset, other.end);
    }
    plan.offsets[v] = offset;
    plan.arena_bytes = std::max(plan.arena_bytes, offset + size);
    const Placed entry{offset, offset + size, value.definition, value.last_use};
    placed.insert(std::upper_bound(placed.begin(), placed.end(), entry,
                                   [](const Placed& a, const Placed& b) { return a.begin < b.begin; }),
                  entry);
  }
  return plan;
}

std::shared_ptr<const MemoryPlan> PlanCache::Get(const Function& function, std::span<const size_t> sizes) {
  if (bound_ != nullptr && bound_->Fits(sizes)) return bound_;
  const auto same = [&](const MemoryPlan& plan) {
    return std::equal(sizes.begin(), sizes.end(), plan.sizes.begin(), plan.sizes.end());
  };
  std::lock_guard lock(mutex_);
  for (auto it = plans_.begin(); it != plans_.end(); ++it) {
    if (!same(**it)) continue;
    plans_.splice(plans_.begin(), plans_, it);
    return plans_.front();
  }
  plans_.push_front(std::make_shared<MemoryPlan>(PlanMemory(function, sizes)));
  if (plans_.size() > kMostPlans) plans_.pop_back();
  return plans_.front();
}

}  // namespace ingot
