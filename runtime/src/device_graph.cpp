#include "device_graph.h"

#include <algorithm>

#include "device.h"

namespace ingot {
namespace {

// Addresses of outputs that callers keep and free alternate between a few.
constexpr size_t kMostGraphs = 4;

}  // namespace

GraphCache::~GraphCache() {
  for (const Entry& entry : entries_) device_->Try(&DeviceLibrary::destroy_graph, entry.graph);
}

void* GraphCache::Find(const std::vector<const void*>& addresses) {
  const auto found = std::ranges::find(entries_, addresses, &Entry::addresses);
  if (found == entries_.end()) return nullptr;
  std::rotate(found, found + 1, entries_.end());
  return entries_.back().graph;
}

void GraphCache::Add(const Device& device, const std::vector<const void*>& addresses, void* graph) {
  device_ = &device;
  if (entries_.size() == kMostGraphs) {
    device_->Try(&DeviceLibrary::destroy_graph, entries_.front().graph);
    entries_.erase(entries_.begin());
  }
  entries_.push_back({addresses, graph});
}

}  // namespace ingot
