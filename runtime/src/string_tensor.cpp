#include "string_tensor.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "error.h"

namespace ingot {
namespace {

// Strings are short; a block serves many.
constexpr size_t kBlockBytes = size_t{1} << 16;

// The bytes of the character that `text` starts with, or 0 if it starts with none.
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < bytes) return 0;
  // The second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const uint8_t least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const uint8_t most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < least || byte(1) > most) return 0;
  for (size_t i = 2; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return bytes;
}

}  // namespace

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string FindBadString(std::span<const ingot_string> strings) {
  for (size_t i = 0; i < strings.size(); ++i) {
    const ingot_string& string = strings[i];
    if (string.size > static_cast<size_t>(std::numeric_limits<int64_t>::max()))
      return Text("element ", i, " has a size of ", string.size, ", which is beyond memory");
    if (string.size > 0 && string.data == nullptr)
      return Text("element ", i, " has a size of ", string.size, ", but its data is NULL");
    if (!IsUtf8({string.data, string.size})) return Text("element ", i, " is not UTF-8");
  }
  return "";
}

std::vector<ingot_string> ReadStrings(std::span<const std::byte> stored, size_t count) {
  if (count >= stored.size() / sizeof(uint64_t))  // there is one offset more
    Fail(INGOT_ERROR_ARTIFACT, stored.size(), " bytes do not hold the offsets of ", count, " strings");
  const size_t head = (count + 1) * sizeof(uint64_t);
  const std::span<const std::byte> bytes = stored.subspan(head);
  const auto offset = [&](size_t i) {
    uint64_t value = 0;
    std::memcpy(&value, stored.data() + i * sizeof value, sizeof value);
    return value;
  };
  if (offset(0) != 0 || offset(count) != bytes.size())
    Fail(INGOT_ERROR_ARTIFACT, "the offsets of strings start at ", offset(0), " and end at ", offset(count), ", their ",
         bytes.size(), " bytes do not");
  std::vector<ingot_string> strings(count);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t begin = offset(i);
    const uint64_t end = offset(i + 1);
    if (begin > end || end > bytes.size())
      Fail(INGOT_ERROR_ARTIFACT, "string ", i, " reaches from byte ", begin, " to ", end, " of ", bytes.size());
    strings[i] = {reinterpret_cast<const char*>(bytes.data()) + begin, end - begin};
  }
  if (const std::string problem = FindBadString(strings); !problem.empty()) Fail(INGOT_ERROR_ARTIFACT, problem);
  return strings;
}

char* StringHeap::Allocate(size_t bytes) {
  if (blocks_.empty() || bytes > left_) {
    blocks_.push_back(pool_.Allocate(std::max(bytes, kBlockBytes)));
    left_ = blocks_.back().capacity();
  }
  const BufferRef& block = blocks_.back();
  auto* const text = reinterpret_cast<char*>(block.data()) + (block.capacity() - left_);
  left_ -= bytes;
  return text;
}

void StringHeap::Clear() {
  blocks_.clear();
  left_ = 0;
}

BufferRef PackStrings(std::span<const ingot_string> strings, BufferPool& pool) {
  size_t bytes = strings.size_bytes();
  for (const ingot_string& string : strings) {
    if (__builtin_add_overflow(bytes, string.size, &bytes))
      Fail(INGOT_ERROR_MEMORY, "the strings of a result do not fit into memory");
  }
  BufferRef buffer = pool.Allocate(bytes);
  auto* packed = reinterpret_cast<ingot_string*>(buffer.data());
  auto* text = reinterpret_cast<char*>(packed + strings.size());
  for (const ingot_string& string : strings) {
    if (string.size > 0) std::memcpy(text, string.data, string.size);
    *packed++ = {text, string.size};
    text += string.size;
  }
  return buffer;
}

}  // namespace ingot
