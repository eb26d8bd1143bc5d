// An .ingot file (docs/format.md): mapped and checked; nothing of it runs.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dtype.h"
#include "file.h"
#include "json.h"
#include "string_tensor.h"

namespace ingot {

struct Segment {
  enum Kind : uint32_t { kManifest = 1, kCode = 2, kWeights = 3, kSamples = 4, kAssets = 5 };
  Kind kind;
  uint32_t checksum;
  std::span<const std::byte> bytes;
  size_t offset;  // in the file
};

// A symbolic dimension of the model.
struct Dimension {
  std::string_view name;
  int64_t maximum;  // or kUnbounded
  static constexpr int64_t kUnbounded = -1;
};

// An input or output as people know it. `shape` holds -1 for a symbolic extent, which `dims` names.
struct TensorInfo {
  std::string name;
  const DType* dtype;
  std::vector<int64_t> shape;
  std::vector<std::string> dims;
};

// A tensor that a session remembers: the main function takes it behind its inputs and gives it behind its outputs.
struct StateInfo : TensorInfo {
  enum class Kind : uint8_t { kCarry, kCache };
  Kind kind = Kind::kCarry;
  // Of a cache, whose axis 0 is the batch: the axis of steps, and the carried int64 state [batch] that counts them.
  int32_t axis = 0;
  size_t length = 0;
  bool ring = false;  // a step beyond the axis's extent replaces an earlier one
};

struct Weight {
  std::string_view name;
  const DType* dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;   // its elements
  std::span<const std::byte> stored;  // what the file holds: the elements, but for strings
  uint32_t checksum;
};

struct Target {
  std::string name;
  std::string_view architecture;
  std::vector<std::string_view> features;
  json::Node code;
  json::Node program;
};

class Artifact {
 public:
  // Checks the header, the segment table and the manifest.
  explicit Artifact(const std::string& path);

  const std::string& path() const { return file_.path(); }
  std::string_view manifest() const { return manifest_text_; }
  const std::vector<Segment>& segments() const { return segments_; }
  const std::vector<Dimension>& dimensions() const { return dimensions_; }
  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }
  const std::vector<StateInfo>& states() const { return states_; }
  // What the main function takes: inputs, then states.
  const std::vector<TensorInfo>& taken() const { return taken_; }
  const std::vector<Weight>& weights() const { return weights_; }
  const std::vector<Target>& targets() const { return targets_; }

  // The target of a name, or the first that this machine can run if `name` is empty; an error if there is none.
  // `device`: the GPU for CUDA targets.
  const Target& ChooseTarget(std::string_view name, int32_t device = 0) const;
  // Fails if the checksum of a segment's bytes is not what the segment table says.
  void CheckSegment(size_t index) const;
  // Checks every byte, and names the first segment or weight that differs.
  void Verify() const;
  // The segment that a manifest entry refers to, which must be of this kind.
  size_t SegmentIndex(const json::Node& node, Segment::Kind kind) const;

  // The open file, to map code from; -1 once closed.
  int descriptor() const { return file_.descriptor(); }
  void CloseDescriptor() { file_.CloseDescriptor(); }

 private:
  void ReadPrefix();
  void ReadManifest();
  std::vector<TensorInfo> ReadTensors(const json::Node& node) const;
  void ReadStates(const json::Node& node);
  void ReadWeights(const json::Node& node);
  void CheckSamples(const json::Node& node) const;
  void CheckWeights() const;
  std::string Missing(const Target& target, int32_t device) const;
  std::string OfferAnother(const Target& but) const;

  MappedFile file_;
  std::vector<Segment> segments_;
  std::string manifest_text_;  // a copy, so that it ends with a NUL
  std::optional<json::Document> document_;
  std::vector<Dimension> dimensions_;
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
  std::vector<StateInfo> states_;
  std::vector<TensorInfo> taken_;
  std::vector<Weight> weights_;
  std::vector<std::vector<ingot_string>> strings_;  // the elements of weights that are strings
  std::vector<Target> targets_;
};

// The product of `shape` and `element_bytes`, or nothing if an extent is negative or the product leaves 63 bits.
std::optional<size_t> ByteCount(std::span<const int64_t> shape, size_t element_bytes);

}  // namespace ingot
