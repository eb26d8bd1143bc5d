// A small strict JSON reader (RFC 8259): UTF-8 checked, no duplicate keys, bounded depth. Values live in one arena and
// point into the text, so a document is parsed without copying strings that have no escapes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "error.h"

namespace ingot::json {

enum class Kind : uint8_t { kNull, kBool, kInteger, kNumber, kString, kArray, kObject };

struct Member;

struct Value {
  Kind kind = Kind::kNull;
  uint32_t count = 0;  // bytes of a string, elements of an array, members of an object
  union {
    int64_t integer = 0;  // also 0 or 1 of a boolean
    double number;
    const char* text;
    const Value* items;
    const Member* members;
  };
};

struct Member {
  std::string_view key;
  Value value;
};

class Document;

// A place in a document. Reads that do not match what stands there throw an Error with the place's path.
class Node {
 public:
  Node(const Document& document, const Value& value) : document_(&document), value_(&value) {}

  bool IsNull() const { return value_->kind == Kind::kNull; }
  bool IsString() const { return value_->kind == Kind::kString; }
  bool IsInteger() const { return value_->kind == Kind::kInteger; }

  int64_t Integer() const;
  int64_t Integer(int64_t minimum, int64_t maximum) const;
  // An index into something with `count` elements.
  int32_t Index(size_t count) const { return static_cast<int32_t>(Integer(0, static_cast<int64_t>(count) - 1)); }
  size_t Size(const char* what_for) const;  // a number of bytes
  double Number() const;
  bool Bool() const;
  std::string_view String() const;

  size_t ArraySize() const;
  Node At(size_t index) const;
  size_t MemberCount() const;
  std::string_view KeyAt(size_t index) const;
  Node ValueAt(size_t index) const;
  Node operator[](std::string_view key) const;
  std::optional<Node> Find(std::string_view key) const;

  // The elements of an array, each given to `element`.
  template <typename Element>
  auto Map(Element&& element) const {
    std::vector<decltype(element(*this))> result;
    const size_t count = ArraySize();
    result.reserve(count);
    for (size_t i = 0; i < count; ++i) result.push_back(element(At(i)));
    return result;
  }

  std::string Path() const;

  template <typename... Parts>
  [[noreturn]] void Fail(const Parts&... parts) const {
    ::ingot::Fail(INGOT_ERROR_ARTIFACT, Path(), ": ", parts...);
  }

 private:
  void Expect(Kind kind, const char* name) const;

  const Document* document_;
  const Value* value_;
};

class Document {
 public:
  // Parses `text`, which must outlive the document. `name` stands for the document in messages.
  Document(std::string_view text, std::string name);
  Node root() const { return {*this, root_}; }

 private:
  friend class Node;
  friend class Parser;

  void* Allocate(size_t bytes);
  bool FindPath(const Value& from, const Value* target, std::string& path) const;

  std::string name_;
  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  size_t used_ = 0;      // bytes of the last chunk
  size_t capacity_ = 0;  // of the last chunk
  Value root_;
};

// Appends `text` as a JSON string with its quotes.
void AppendString(std::string& out, std::string_view text);

}  // namespace ingot::json
