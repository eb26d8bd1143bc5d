// CUDA graphs of a frame: a run that repeats the last one's addresses is one launch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ingot {

class Device;

// How often a session's runs were captured and replayed, and why the last run was not: "" if it was.
struct GraphCounts {
  int64_t captured = 0;
  int64_t replayed = 0;
  std::string reason = "the session has not run";
};

class GraphCache {
 public:
  GraphCache() = default;
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // The graph that was captured with these addresses, or nullptr.
  void* Find(const std::vector<const void*>& addresses);
  // Keeps a graph; an old one makes room.
  void Add(const Device& device, const std::vector<const void*>& addresses, void* graph);

  bool warm = false;  // the frame has run: memory is there, code is loaded
  // Captures that are left before runs of this frame are no longer worth one; a caller's addresses that never repeat
  // use them up.
  int32_t captures_left = 8;
  std::string failure;  // of a capture: there will be no other

 private:
  struct Entry {
    std::vector<const void*> addresses;
    void* graph;
  };

  const Device* device_ = nullptr;
  std::vector<Entry> entries_;  // the one that was used last stands last
};

}  // namespace ingot
