#include "state_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "checksum.h"

namespace ingot {
namespace {

constexpr char kMagic[8] = {'\x89', 'I', 'N', 'G', 'S', 'T', '1', '\n'};
constexpr uint64_t kMostAxes = 64;

std::string SystemMessage() { return std::generic_category().message(errno); }

uint32_t Fingerprint(std::string_view manifest) { return Crc32(manifest.data(), manifest.size()); }

}  // namespace

StateWriter::StateWriter(const std::string& path, std::string_view manifest)
    : path_(path),
      temporary_(Text(path, ".", static_cast<int64_t>(::getpid()), ".tmp")),
      file_(std::fopen(temporary_.c_str(), "wb")) {
  if (file_ == nullptr) Fail(INGOT_ERROR_FILE, path_, ": cannot write the file: ", SystemMessage());
  Bytes(kMagic, sizeof kMagic);
  const uint32_t model = Fingerprint(manifest);
  Bytes(&model, sizeof model);
}

StateWriter::~StateWriter() {
  if (!temporary_.empty()) std::remove(temporary_.c_str());
}

void StateWriter::Shape(std::span<const int64_t> shape) {
  const uint64_t axes = shape.size();
  Bytes(&axes, sizeof axes);
  Bytes(shape.data(), shape.size_bytes());
}

void StateWriter::Bytes(const void* data, size_t size) {
  if (size == 0) return;
  checksum_ = Crc32(data, size, checksum_);
  if (std::fwrite(data, 1, size, file_.get()) != size)
    Fail(INGOT_ERROR_FILE, path_, ": cannot write the file: ", SystemMessage());
}

void StateWriter::Finish() {
  const uint32_t checksum = checksum_;
  Bytes(&checksum, sizeof checksum);
  const bool written = std::fflush(file_.get()) == 0;
  file_.reset();
  if (!written || std::rename(temporary_.c_str(), path_.c_str()) != 0)
    Fail(INGOT_ERROR_FILE, path_, ": cannot write the file: ", SystemMessage());
  temporary_.clear();
}

StateReader::StateReader(const std::string& path, std::string_view manifest)
    : path_(path), file_(std::fopen(path.c_str(), "rb")) {
  if (file_ == nullptr) Fail("cannot open the file: ", SystemMessage());
  char magic[sizeof kMagic];
  Bytes(magic, sizeof magic);
  if (std::memcmp(magic, kMagic, sizeof magic) != 0) Fail("is not a file of saved states");
  uint32_t model = 0;
  Bytes(&model, sizeof model);
  if (model != Fingerprint(manifest)) Fail("holds the states of another model, or of another build of this one");
}

std::vector<int64_t> StateReader::Shape() {
  uint64_t axes = 0;
  Bytes(&axes, sizeof axes);
  if (axes > kMostAxes) Fail("is damaged");
  std::vector<int64_t> shape(axes);
  Bytes(shape.data(), axes * sizeof(int64_t));
  return shape;
}

void StateReader::Bytes(void* data, size_t size) {
  if (size == 0) return;
  if (std::fread(data, 1, size, file_.get()) != size) Fail("is no file of saved states, or is truncated");
  checksum_ = Crc32(data, size, checksum_);
}

void StateReader::Finish() {
  const uint32_t expected = checksum_;
  uint32_t found = 0;
  Bytes(&found, sizeof found);
  if (found != expected) Fail("is damaged: its checksum differs");
  if (std::fgetc(file_.get()) != EOF) Fail("is damaged: it is longer than what it holds");
}

}  // namespace ingot
