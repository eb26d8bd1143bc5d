// The code of one target, mapped to run (docs/format.md, "Code").
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "artifact.h"

namespace ingot {

using GeneratedFunction = int32_t (*)(const int64_t* args);

class CodeImage {
 public:
  // Maps the image that a target's "code" describes. The segment's checksum has been checked.
  CodeImage(const Artifact& artifact, const json::Node& code);
  ~CodeImage();
  CodeImage(const CodeImage&) = delete;
  CodeImage& operator=(const CodeImage&) = delete;

  // A function by its name, or nullptr.
  GeneratedFunction Find(std::string_view name) const;

 private:
  struct Layout;
  void Map(const Artifact& artifact, const Segment& segment, const Layout& layout);
  void FillSlots(const json::Node& code, const Layout& layout);
  void ReadFunctions(const json::Node& functions, const Layout& layout);

  std::byte* base_ = nullptr;
  size_t mapped_ = 0;
  std::vector<std::pair<std::string_view, size_t>> functions_;  // sorted by name; offsets
};

}  // namespace ingot
