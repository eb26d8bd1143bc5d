#include "artifact.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "checksum.h"
#include "device_code.h"
#include "machine.h"

static_assert(std::endian::native == std::endian::little, "artifacts are little-endian and are mapped as they are");

namespace ingot {
namespace {

constexpr std::string_view kMagic("\x89INGOT\r\n", 8);
constexpr uint32_t kVersion = 1;
constexpr size_t kAlignment = 65536;
constexpr size_t kWeightAlignment = 64;
constexpr size_t kChecksumOffset = 60;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t segment_count;
  uint64_t file_size;
  uint64_t prefix_size;
  uint64_t manifest_length;
  uint8_t zero[20];
  uint32_t checksum;
};
static_assert(sizeof(Header) == 64);

struct SegmentEntry {
  uint32_t kind;
  uint32_t checksum;
  uint64_t offset;
  uint64_t size;
  uint64_t zero;
};
static_assert(sizeof(SegmentEntry) == 32);

// What other files that people take for artifacts start with.
struct Signature {
  size_t offset;
  std::string_view bytes;
  std::string_view meaning;
};
constexpr Signature kSignatures[] = {
    {0, "\x89INGOT", "an artifact whose line ends were changed, by a transfer in text mode"},
    {0,
     "\x7f"
     "ELF",
     "an ELF object, library or program"},
    {0, "PK\x03\x04", "a zip file, such as a PyTorch checkpoint or an .npz file"},
    {0, "\x93NUMPY", "a NumPy array"},
    {0, "GGUF", "a GGUF model"},
    {0, "\x89HDF", "an HDF5 file"},
    {4, "TFL3", "a TensorFlow Lite model"},
    {8, "{\"", "a safetensors file"},
    {0, "\x1f\x8b", "a gzip file"},
    {0, "version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"},
    {0, "<", "an HTML or XML page, such as a failed download"},
    {0, "{", "JSON"},
    {0, "\x08", "an ONNX model: compile it with `ingot compile`"},  // protobuf field 1, ir_version
};

std::string Foreign(std::string_view content) {
  for (const Signature& signature : kSignatures) {
    if (content.size() > signature.offset && content.substr(signature.offset).starts_with(signature.bytes)) {
      return Text("; it looks like ", signature.meaning);
    }
  }
  return "";
}

template <typename... Parts>
[[noreturn]] void FailArtifact(const Parts&... parts) {
  Fail(INGOT_ERROR_ARTIFACT, parts...);
}

const DType* ReadDType(const json::Node& node) {
  const DType* dtype = FindDType(node.String());
  if (dtype == nullptr) node.Fail("there is no element type '", node.String(), "'");
  return dtype;
}

constexpr std::string_view kKindNames[] = {"", "manifest", "code", "weights", "samples"};

}  // namespace

std::optional<size_t> ByteCount(std::span<const int64_t> shape, size_t element_bytes) {
  int64_t count = static_cast<int64_t>(element_bytes);
  bool empty = false;
  bool overflow = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    empty |= extent == 0;
    overflow |= __builtin_mul_overflow(count, std::max<int64_t>(extent, 1), &count);
  }
  if (empty) return 0;  // whatever the other extents are
  if (overflow) return std::nullopt;
  return static_cast<size_t>(count);
}

Artifact::Artifact(const std::string& path) : file_(path) {
  WithContext(path, [&] {
    ReadPrefix();
    ReadManifest();
  });
}

void Artifact::ReadPrefix() {
  const auto bytes = file_.bytes();
  const std::string_view content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (content.empty()) FailArtifact("the file is empty");
  if (!content.starts_with(kMagic.substr(0, std::min(content.size(), kMagic.size())))) {
    FailArtifact("is not an Ingot artifact", Foreign(content));
  }
  if (content.size() < sizeof(Header)) {
    FailArtifact("the file is truncated: it has ", content.size(), " bytes, its header alone takes ", sizeof(Header));
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.version != kVersion) {
    const bool newer = header.version > kVersion;
    Fail(INGOT_ERROR_VERSION, "the artifact has format version ", header.version, ", this library reads version ",
         kVersion,
         newer ? "; use a newer libingot, or compile the model again with this one's compiler"
               : "; compile the model again");
  }
  if (header.file_size > content.size()) {
    FailArtifact("the file is truncated: it has ", content.size(), " of ", header.file_size, " bytes");
  }
  if (header.file_size < content.size()) {
    FailArtifact("the file has ", content.size() - header.file_size, " bytes after the end that its header states");
  }
  const size_t prefix_size = header.prefix_size;
  if (prefix_size > content.size() || prefix_size % kAlignment != 0 ||
      prefix_size < sizeof(Header) + uint64_t{sizeof(SegmentEntry)} * header.segment_count) {
    FailArtifact("the header is corrupted: a prefix of ", prefix_size, " bytes with ", header.segment_count,
                 " segments");
  }
  constexpr uint32_t kNoChecksum = 0;
  uint32_t checksum = Crc32(bytes.data(), kChecksumOffset);
  checksum = Crc32(&kNoChecksum, sizeof kNoChecksum, checksum);
  checksum = Crc32(bytes.data() + sizeof(Header), prefix_size - sizeof(Header), checksum);
  if (checksum != header.checksum) FailArtifact("the header or segment table is corrupted: its checksum differs");

  uint64_t end = prefix_size;
  for (uint32_t i = 0; i < header.segment_count; ++i) {
    SegmentEntry entry;
    std::memcpy(&entry, bytes.data() + sizeof(Header) + i * sizeof entry, sizeof entry);
    if (entry.kind < Segment::kManifest || entry.kind > Segment::kAssets ||
        (i == 0) != (entry.kind == Segment::kManifest)) {
      FailArtifact("segment ", i, " has kind ", entry.kind, ", which cannot stand there");
    }
    if (entry.offset != end || entry.size % kAlignment != 0 || entry.size > content.size() - end) {
      FailArtifact("segment ", i, " (", entry.size, " bytes at ", entry.offset,
                   ") does not follow the one before, which ends at ", end);
    }
    end += entry.size;
    segments_.push_back({static_cast<Segment::Kind>(entry.kind), entry.checksum,
                         bytes.subspan(entry.offset, entry.size), entry.offset});
  }
  if (end != content.size()) FailArtifact("the segments end at ", end, ", the file at ", content.size());
  if (segments_.empty() || header.manifest_length > segments_[0].bytes.size()) {
    FailArtifact("the manifest's length of ", header.manifest_length, " bytes is beyond its segment");
  }
  CheckSegment(0);
  manifest_text_.assign(content.substr(prefix_size, header.manifest_length));
}

void Artifact::ReadManifest() {
  document_.emplace(manifest_text_, "manifest");
  const json::Node root = document_->root();
  if (const int64_t format = root["format"].Integer(); format != kVersion) {
    root["format"].Fail("the header says version ", kVersion, ", the manifest ", format);
  }
  dimensions_ = root["dims"].Map([](const json::Node& node) {
    const json::Node maximum = node["max"];
    return Dimension{node["name"].String(), maximum.IsNull() ? Dimension::kUnbounded
                                                             : maximum.Integer(0, std::numeric_limits<int64_t>::max())};
  });
  inputs_ = ReadTensors(root["inputs"]);
  outputs_ = ReadTensors(root["outputs"]);
  if (const auto states = root.Find("states")) ReadStates(*states);
  taken_ = inputs_;
  taken_.insert(taken_.end(), states_.begin(), states_.end());
  ReadWeights(root["weights"]);
  targets_ = root["targets"].Map([](const json::Node& node) {
    return Target{std::string(node["name"].String()), node["arch"].String(),
                  node["features"].Map([](const json::Node& feature) { return feature.String(); }), node["code"],
                  node["program"]};
  });
  if (const auto samples = root.Find("samples"); samples && !samples->IsNull()) CheckSamples(*samples);
}

std::vector<TensorInfo> Artifact::ReadTensors(const json::Node& node) const {
  return node.Map([](const json::Node& tensor) {
    TensorInfo info{std::string(tensor["name"].String()), ReadDType(tensor["dtype"]), {}, {}};
    tensor["shape"].Map([&](const json::Node& extent) {
      const bool fixed = extent.IsInteger();
      info.shape.push_back(fixed ? extent.Integer(0, std::numeric_limits<int64_t>::max()) : -1);
      info.dims.push_back(fixed ? Text(extent.Integer()) : std::string(extent.String()));
      return 0;
    });
    return info;
  });
}

void Artifact::ReadStates(const json::Node& node) {
  std::vector<TensorInfo> tensors = ReadTensors(node);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const json::Node place = node.At(i);
    StateInfo state{std::move(tensors[i])};
    if (IsString(state.dtype->type)) place.Fail("a state cannot hold strings");
    if (place["kind"].String() == "cache") {
      state.kind = StateInfo::Kind::kCache;
      state.axis = place["axis"].Index(state.shape.size());
      state.length = static_cast<size_t>(place["length"].Index(tensors.size()));
      state.ring = place["ring"].Bool();
      if (state.axis == 0) place["axis"].Fail("axis 0 of a cache is the batch");
    } else if (place["kind"].String() != "carry") {
      Fail(INGOT_ERROR_VERSION, place.Path(), ": this version of libingot has no state of kind '",
           place["kind"].String(), "'");
    }
    states_.push_back(std::move(state));
  }
  for (size_t i = 0; i < states_.size(); ++i) {
    if (states_[i].kind != StateInfo::Kind::kCache) continue;
    const StateInfo& length = states_[states_[i].length];
    if (length.kind != StateInfo::Kind::kCarry || length.dtype->name != "int64" || length.shape.size() != 1 ||
        length.dims[0] != states_[i].dims[0])
      node.At(i)["length"].Fail("'", length.name, "' does not count steps: it is no int64 tensor [batch]");
  }
}

void Artifact::ReadWeights(const json::Node& node) {
  if (node["tensors"].ArraySize() == 0) return;
  const auto segment = segments_[SegmentIndex(node["segment"], Segment::kWeights)].bytes;
  weights_ = node["tensors"].Map([&](const json::Node& tensor) {
    const size_t offset = tensor["offset"].Size("offset");
    const size_t size = tensor["nbytes"].Size("size");
    const std::string_view name = tensor["name"].String();
    if (offset % kWeightAlignment != 0)
      tensor["offset"].Fail("weight '", name, "' is not aligned to ", kWeightAlignment, " bytes");
    if (offset > segment.size() || size > segment.size() - offset)
      tensor.Fail("weight '", name, "' ends beyond its segment");
    Weight weight{name,
                  ReadDType(tensor["dtype"]),
                  tensor["shape"].Map([](const json::Node& extent) { return extent.Integer(); }),
                  segment.subspan(offset, size),
                  segment.subspan(offset, size),
                  static_cast<uint32_t>(tensor["crc32"].Integer(0, std::numeric_limits<uint32_t>::max()))};
    const auto bytes = ByteCount(weight.shape, weight.dtype->bytes);
    if (IsString(weight.dtype->type) && bytes) {
      const std::string context = Text(tensor.Path(), ": weight '", name, "'");
      strings_.push_back(
          WithContext(context, [&] { return ReadStrings(weight.stored, *bytes / sizeof(ingot_string)); }));
      weight.bytes = std::as_bytes(std::span(strings_.back()));
    } else if (bytes != size) {
      tensor.Fail("weight '", name, "' takes ", size, " bytes, which is not what ", ShapeText(weight.shape), " of ",
                  weight.dtype->name, " takes");
    }
    return weight;
  });
}

void Artifact::CheckSamples(const json::Node& node) const {
  const auto segment = segments_[SegmentIndex(node["segment"], Segment::kSamples)].bytes;
  const auto check = [&](const json::Node& tensor) {
    const size_t offset = tensor["offset"].Size("offset");
    const size_t size = tensor["nbytes"].Size("size");
    if (offset > segment.size() || size > segment.size() - offset) tensor.Fail("the sample ends beyond its segment");
    const auto shape = tensor["shape"].Map([](const json::Node& extent) { return extent.Integer(); });
    const DType* dtype = ReadDType(tensor["dtype"]);
    const auto bytes = ByteCount(shape, dtype->bytes);
    if (IsString(dtype->type) && bytes) {
      WithContext(Text(tensor.Path(), ": the sample"),
                  [&] { ReadStrings(segment.subspan(offset, size), *bytes / sizeof(ingot_string)); });
    } else if (bytes != size) {
      tensor.Fail("the sample's size is not its shape's");
    }
    return 0;
  };
  node["cases"].Map([&](const json::Node& sample) {
    sample["inputs"].Map(check);
    sample["outputs"].Map(check);
    return 0;
  });
}

size_t Artifact::SegmentIndex(const json::Node& node, Segment::Kind kind) const {
  const auto index = static_cast<size_t>(node.Index(segments_.size()));
  if (segments_[index].kind != kind) {
    node.Fail("segment ", index, " holds ", kKindNames[segments_[index].kind], ", not ", kKindNames[kind]);
  }
  return index;
}

void Artifact::CheckSegment(size_t index) const {
  const Segment& segment = segments_[index];
  if (Crc32(segment.bytes.data(), segment.bytes.size()) != segment.checksum) {
    FailArtifact("segment ", index, " (", kKindNames[segment.kind], ") is corrupted: its checksum differs");
  }
}

void Artifact::Verify() const {
  WithContext(path(), [&] {
    for (size_t i = 0; i < segments_.size(); ++i) {
      try {
        CheckSegment(i);
      } catch (const Error&) {
        if (segments_[i].kind == Segment::kWeights) CheckWeights();  // which names the one that differs
        throw;
      }
    }
  });
}

void Artifact::CheckWeights() const {
  for (const Weight& weight : weights_) {
    if (Crc32(weight.stored.data(), weight.stored.size()) != weight.checksum) {
      FailArtifact("weight '", weight.name, "' is corrupted: its checksum differs");
    }
  }
}

const Target& Artifact::ChooseTarget(std::string_view name, int32_t device) const {
  std::string offered;
  for (const Target& target : targets_) {
    if (!offered.empty()) offered += ", ";
    offered += target.name;
    const bool cuda = target.architecture == kCuda;
    const bool wanted = name.empty() || target.name == name;
    if (!wanted && cuda) continue;  // a GPU is not looked for in vain
    const std::string missing = Missing(target, device);
    if (wanted && missing.empty()) return target;
    if (wanted && !name.empty())
      Fail(INGOT_ERROR_TARGET, path(), ": target '", name, "' ",
           cuda ? missing : Text("needs ", missing, ", which this machine does not have"), OfferAnother(target));
    if (!missing.empty()) offered += Text(cuda ? " (" : " (needs ", missing, ")");
  }
  if (offered.empty()) Fail(INGOT_ERROR_TARGET, path(), ": the artifact has code for no target");
  if (!name.empty()) Fail(INGOT_ERROR_TARGET, path(), ": there is no target '", name, "'; the artifact has ", offered);
  Fail(INGOT_ERROR_TARGET, path(), ": none of its targets runs on this machine: ", offered);
}

// What this machine lacks of a target, or "".
std::string Artifact::Missing(const Target& target, int32_t device) const {
  if (target.architecture != kCuda) return MissingFeatures(target.architecture, target.features);
  const DeviceCodeInfo info = ReadDeviceCodeInfo(target.code);
  try {
    return MissingDeviceCode(Device::Open(device), info.architectures, info.ptx);
  } catch (const Error& error) {
    return Text("cannot run: ", error.what());
  }
}

// "; load it with target 'cpu:x86-64-v3' to run on the CPU", if there is one that can.
std::string Artifact::OfferAnother(const Target& but) const {
  if (but.architecture != kCuda) return "";
  for (const Target& target : targets_) {
    if (target.architecture != kCuda && Missing(target, 0).empty())
      return Text("; load it with target '", target.name, "' to run on the CPU");
  }
  return "";
}

}  // namespace ingot
