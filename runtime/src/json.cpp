#include "json.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

namespace ingot::json {
namespace {

constexpr int kMaxDepth = 64;
constexpr const char* kKindNames[] = {"null",     "a boolean", "an integer", "a number",
                                      "a string", "an array",  "an object"};

const char* KindName(Kind kind) { return kKindNames[static_cast<size_t>(kind)]; }

void AppendUtf8(std::string& text, uint32_t point) {
  if (point < 0x80) {
    text += static_cast<char>(point);
  } else if (point < 0x800) {
    text += static_cast<char>(0xC0 | (point >> 6));
    text += static_cast<char>(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    text += static_cast<char>(0xE0 | (point >> 12));
    text += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (point & 0x3F));
  } else {
    text += static_cast<char>(0xF0 | (point >> 18));
    text += static_cast<char>(0x80 | ((point >> 12) & 0x3F));
    text += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (point & 0x3F));
  }
}

// Bytes of the UTF-8 sequence at `at`, or 0 if it is malformed (overlong, a surrogate, beyond U+10FFFF, cut off).
size_t SequenceLength(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const auto continues = [&](size_t count) {
    if (at + count >= text.size()) return false;
    for (size_t i = 1; i <= count; ++i) {
      if ((byte(i) & 0xC0) != 0x80) return false;
    }
    return true;
  };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return continues(1) ? 2 : 0;
  if (lead >= 0xE0 && lead < 0xF0) {
    if (!continues(2)) return 0;
    const bool overlong = lead == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = lead == 0xED && byte(1) >= 0xA0;
    return overlong || surrogate ? 0 : 3;
  }
  if (lead >= 0xF0 && lead < 0xF5) {
    if (!continues(3)) return 0;
    const bool overlong = lead == 0xF0 && byte(1) < 0x90;
    const bool beyond = lead == 0xF4 && byte(1) >= 0x90;
    return overlong || beyond ? 0 : 4;
  }
  return 0;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

class Parser {
 public:
  Parser(Document& document, std::string_view text) : document_(document), text_(text) {}

  Value ParseDocument() {
    Value value = ParseValue(0);
    SkipSpace();
    if (at_ != text_.size()) Fail("expected the end");
    return value;
  }

 private:
  template <typename... Parts>
  [[noreturn]] void Fail(const Parts&... parts) const {
    ::ingot::Fail(INGOT_ERROR_ARTIFACT, document_.name_, " is not valid JSON at byte ", at_, ": ", parts...);
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void SkipSpace() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }

  void Expect(char c) {
    SkipSpace();
    if (Peek() != c) Fail("expected '", std::string_view(&c, 1), "'");
    ++at_;
  }

  bool Accept(char c) {
    SkipSpace();
    if (Peek() != c) return false;
    ++at_;
    return true;
  }

  Value ParseValue(int depth) {
    if (depth > kMaxDepth) Fail("nested deeper than ", kMaxDepth, " levels");
    SkipSpace();
    switch (Peek()) {
      case '{':
        return ParseObject(depth);
      case '[':
        return ParseArray(depth);
      case '"':
        return ParseString();
      case 't':
        return ParseWord("true", Kind::kBool, 1);
      case 'f':
        return ParseWord("false", Kind::kBool, 0);
      case 'n':
        return ParseWord("null", Kind::kNull, 0);
      default:
        return ParseNumber();
    }
  }

  Value ParseWord(std::string_view word, Kind kind, int64_t integer) {
    if (text_.substr(at_, word.size()) != word) Fail("expected a value");
    at_ += word.size();
    Value value;
    value.kind = kind;
    value.integer = integer;
    return value;
  }

  Value ParseNumber() {
    const size_t start = at_;
    const auto digits = [&] {
      if (!IsDigit(Peek())) Fail("expected a value");
      while (IsDigit(Peek())) ++at_;
    };
    if (Peek() == '-') ++at_;
    if (Peek() == '0') {
      ++at_;
    } else {
      digits();
    }
    bool integral = true;
    if (Peek() == '.') {
      integral = false;
      ++at_;
      digits();
    }
    if (Peek() == 'e' || Peek() == 'E') {
      integral = false;
      ++at_;
      if (Peek() == '+' || Peek() == '-') ++at_;
      digits();
    }
    Value value;
    const char* first = text_.data() + start;
    const char* last = text_.data() + at_;
    if (integral) {
      value.kind = Kind::kInteger;
      if (std::from_chars(first, last, value.integer).ec != std::errc()) Fail("an integer beyond 64 bits");
    } else {
      value.kind = Kind::kNumber;
      if (std::from_chars(first, last, value.number).ec != std::errc()) Fail("a number beyond double precision");
    }
    return value;
  }

  uint32_t ParseHex() {
    if (at_ + 4 > text_.size()) Fail("a \\u escape is cut off");
    uint32_t code = 0;
    const char* first = text_.data() + at_;
    const auto result = std::from_chars(first, first + 4, code, 16);
    if (result.ec != std::errc() || result.ptr != first + 4) Fail("a \\u escape takes four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void ParseEscape(std::string& unescaped) {
    constexpr std::string_view kEscapes = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const char c = Peek();
    ++at_;
    if (const size_t found = kEscapes.find(c); found != std::string_view::npos) {
      unescaped += kMeanings[found];
      return;
    }
    if (c != 'u') Fail("an unknown escape");
    uint32_t code = ParseHex();
    if (code >= 0xDC00 && code < 0xE000) Fail("half of a surrogate pair");
    if (code >= 0xD800 && code < 0xDC00) {
      if (text_.substr(at_, 2) != "\\u") Fail("half of a surrogate pair");
      at_ += 2;
      const uint32_t low = ParseHex();
      if (low < 0xDC00 || low >= 0xE000) Fail("half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    AppendUtf8(unescaped, code);
  }

  Value ParseString() {
    ++at_;  // the opening quote
    const size_t start = at_;
    std::string unescaped;
    bool escaped = false;
    size_t copied = start;  // where the part that is not yet in `unescaped` starts
    while (true) {
      if (at_ >= text_.size()) Fail("a string without an end");
      const char c = text_[at_];
      if (c == '"') break;
      if (static_cast<uint8_t>(c) < 0x20) Fail("a control character in a string");
      if (c == '\\') {
        escaped = true;
        unescaped.append(text_, copied, at_ - copied);
        ++at_;
        ParseEscape(unescaped);
        copied = at_;
        continue;
      }
      const size_t length = SequenceLength(text_, at_);
      if (length == 0) Fail("malformed UTF-8");
      at_ += length;
    }
    std::string_view result = text_.substr(start, at_ - start);
    if (escaped) {
      unescaped.append(text_, copied, at_ - copied);
      char* copy = static_cast<char*>(document_.Allocate(unescaped.size()));
      std::memcpy(copy, unescaped.data(), unescaped.size());
      result = {copy, unescaped.size()};
    }
    ++at_;  // the closing quote
    Value value;
    value.kind = Kind::kString;
    value.count = Count(result.size());
    value.text = result.data();
    return value;
  }

  Value ParseArray(int depth) {
    ++at_;
    const size_t base = items_.size();
    if (!Accept(']')) {
      do {
        items_.push_back(ParseValue(depth + 1));
      } while (Accept(','));
      Expect(']');
    }
    Value value;
    value.kind = Kind::kArray;
    value.count = Count(items_.size() - base);
    value.items = Keep(items_, base);
    return value;
  }

  Value ParseObject(int depth) {
    ++at_;
    const size_t base = members_.size();
    if (!Accept('}')) {
      do {
        SkipSpace();
        if (Peek() != '"') Fail("expected a key");
        const Value key = ParseString();
        Expect(':');
        Member member{{key.text, key.count}, ParseValue(depth + 1)};
        members_.push_back(member);
      } while (Accept(','));
      Expect('}');
    }
    RefuseDuplicates(base);
    Value value;
    value.kind = Kind::kObject;
    value.count = Count(members_.size() - base);
    value.members = Keep(members_, base);
    return value;
  }

  void RefuseDuplicates(size_t base) {
    keys_.clear();
    for (size_t i = base; i < members_.size(); ++i) keys_.push_back(members_[i].key);
    std::sort(keys_.begin(), keys_.end());
    const auto twice = std::adjacent_find(keys_.begin(), keys_.end());
    if (twice != keys_.end()) Fail("the key '", *twice, "' stands twice");
  }

  template <typename T>
  const T* Keep(std::vector<T>& stack, size_t base) {
    const size_t count = stack.size() - base;
    T* kept = static_cast<T*>(document_.Allocate(count * sizeof(T)));
    std::copy(stack.begin() + static_cast<ptrdiff_t>(base), stack.end(), kept);
    stack.resize(base);
    return kept;
  }

  uint32_t Count(size_t count) const {
    if (count > std::numeric_limits<uint32_t>::max()) Fail("too long");
    return static_cast<uint32_t>(count);
  }

  Document& document_;
  std::string_view text_;
  size_t at_ = 0;
  std::vector<Value> items_;            // elements of the arrays being read, innermost last
  std::vector<Member> members_;         // members of the objects being read, innermost last
  std::vector<std::string_view> keys_;  // of the object that was read last, sorted
};

Document::Document(std::string_view text, std::string name) : name_(std::move(name)) {
  root_ = Parser(*this, text).ParseDocument();
}

void* Document::Allocate(size_t bytes) {
  bytes = (bytes + alignof(Value) - 1) / alignof(Value) * alignof(Value);
  if (used_ + bytes > capacity_) {
    constexpr size_t kChunk = 1 << 16;
    capacity_ = std::max(bytes, kChunk);
    chunks_.push_back(std::make_unique_for_overwrite<std::byte[]>(capacity_));
    used_ = 0;
  }
  void* result = chunks_.empty() ? nullptr : chunks_.back().get() + used_;
  used_ += bytes;
  return result;
}

// Messages are rare, so a place does not carry its path: it is searched for when a message needs it.
bool Document::FindPath(const Value& from, const Value* target, std::string& path) const {
  if (&from == target) return true;
  const size_t length = path.size();
  for (uint32_t i = 0; i < from.count && from.kind >= Kind::kArray; ++i) {
    const bool array = from.kind == Kind::kArray;
    path += array ? Text("[", i, "]") : Text(".", from.members[i].key);
    if (FindPath(array ? from.items[i] : from.members[i].value, target, path)) return true;
    path.resize(length);
  }
  return false;
}

std::string Node::Path() const {
  std::string path = document_->name_;
  document_->FindPath(document_->root_, value_, path);
  return path;
}

void Node::Expect(Kind kind, const char* name) const {
  if (value_->kind != kind)
    Fail("expected ", std::string_view(name), ", found ", std::string_view(KindName(value_->kind)));
}

int64_t Node::Integer() const {
  Expect(Kind::kInteger, "an integer");
  return value_->integer;
}

int64_t Node::Integer(int64_t minimum, int64_t maximum) const {
  const int64_t integer = Integer();
  if (integer < minimum || integer > maximum) {
    if (maximum < minimum) Fail("found ", integer, " where nothing can be referred to");
    Fail("expected an integer from ", minimum, " to ", maximum, ", found ", integer);
  }
  return integer;
}

size_t Node::Size(const char* what_for) const {
  const int64_t integer = Integer();
  if (integer < 0) Fail("the ", std::string_view(what_for), " is negative: ", integer);
  return static_cast<size_t>(integer);
}

double Node::Number() const {
  if (value_->kind == Kind::kInteger) return static_cast<double>(value_->integer);
  Expect(Kind::kNumber, "a number");
  return value_->number;
}

bool Node::Bool() const {
  Expect(Kind::kBool, "true or false");
  return value_->integer != 0;
}

std::string_view Node::String() const {
  Expect(Kind::kString, "a string");
  return {value_->text, value_->count};
}

size_t Node::ArraySize() const {
  Expect(Kind::kArray, "an array");
  return value_->count;
}

Node Node::At(size_t index) const { return {*document_, value_->items[index]}; }

size_t Node::MemberCount() const {
  Expect(Kind::kObject, "an object");
  return value_->count;
}

std::string_view Node::KeyAt(size_t index) const { return value_->members[index].key; }

Node Node::ValueAt(size_t index) const { return {*document_, value_->members[index].value}; }

std::optional<Node> Node::Find(std::string_view key) const {
  const size_t count = MemberCount();
  for (size_t i = 0; i < count; ++i) {
    if (KeyAt(i) == key) return ValueAt(i);
  }
  return std::nullopt;
}

Node Node::operator[](std::string_view key) const {
  if (const std::optional<Node> found = Find(key)) return *found;
  Fail("'", key, "' is missing");
}

void AppendString(std::string& out, std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<uint8_t>(c) < 0x20) {
      out += "\\u00";
      out += kHex[static_cast<uint8_t>(c) >> 4];
      out += kHex[static_cast<uint8_t>(c) & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

}  // namespace ingot::json
