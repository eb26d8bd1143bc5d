// Splitting strings as Python's str.split does.

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/strings/strings.h"
#include "cpu/strings/text.h"

namespace ingot {
namespace {

// Unicode's White_Space, and the separators U+001C to U+001F, which Python counts too.
bool IsSpace(uint32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x1F);
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

// `text` from its first character on for which IsSpace is `space`.
std::string_view From(std::string_view text, bool space) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string_view here = rest;
    if (IsSpace(TakeCodePoint(rest)) == space) return here;
  }
  return rest;
}

// Calls body(part) for each part.
template <typename Body>
void AtSpaces(std::string_view text, int64_t most, Body&& body) {
  text = From(text, false);
  while (!text.empty()) {
    if (most-- == 0) return body(text);
    const std::string_view rest = From(text, true);
    body(text.substr(0, text.size() - rest.size()));
    text = From(rest, false);
  }
}

template <typename Body>
void AtDelimiters(std::string_view text, std::string_view delimiter, int64_t most, Body&& body) {
  for (size_t at = 0; most != 0 && (at = text.find(delimiter)) != std::string_view::npos; --most) {
    body(text.substr(0, at));
    text.remove_prefix(at + delimiter.size());
  }
  body(text);
}

}  // namespace

void StringSplit(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const auto strings = Strings(input);
  const DLTensor* given = context.OptionalInput(1);
  if (given != nullptr && Strings(*given).size() != 1) FailKernel("takes one delimiter, not ", Strings(*given).size());
  const std::string_view delimiter = given == nullptr ? std::string_view() : View(Strings(*given)[0]);
  const int64_t most = context.ints()[0] < 0 ? std::numeric_limits<int64_t>::max() : context.ints()[0];
  const auto split = [&](const ingot_string& string, auto&& body) {
    delimiter.empty() ? AtSpaces(View(string), most, body) : AtDelimiters(View(string), delimiter, most, body);
  };

  const auto lengths = context.Scratch<int64_t>(strings.size());
  int64_t longest = 0;
  for (size_t i = 0; i < strings.size(); ++i) {
    lengths[i] = 0;
    split(strings[i], [&](std::string_view) { ++lengths[i]; });
    longest = std::max(longest, lengths[i]);
  }
  std::vector<int64_t> shape(ShapeOf(input).begin(), ShapeOf(input).end());
  if (context.output_count() > 1) {
    const DLTensor& counts = context.AllocateOutput(1, shape);
    CheckType(counts, "int64");
    std::ranges::copy(lengths, Data<int64_t>(counts));
  }
  shape.push_back(longest);
  const auto parts = Strings(context.AllocateOutput(0, shape));
  std::ranges::fill(parts, ingot_string{});
  for (size_t i = 0; i < strings.size(); ++i) {
    size_t next = i * static_cast<size_t>(longest);
    split(strings[i], [&](std::string_view part) { parts[next++] = FromView(part); });
  }
}

}  // namespace ingot
