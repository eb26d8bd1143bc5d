#include "error.h"

#include <charconv>
#include <cstdio>

namespace ingot {

void AppendText(std::string& text, std::string_view part) { text.append(part); }

void AppendText(std::string& text, double part) {
  char digits[32];
  const int count = std::snprintf(digits, sizeof digits, "%g", part);
  text.append(digits, static_cast<size_t>(count));
}

void AppendInteger(std::string& text, int64_t part) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, part).ptr;
  text.append(digits, end);
}

void AppendUnsigned(std::string& text, uint64_t part) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, part).ptr;
  text.append(digits, end);
}

std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) text += ", ";
    AppendInteger(text, shape[i]);
  }
  return text += ']';
}

std::string ShapeText(const DLTensor& tensor) { return ShapeText({tensor.shape, static_cast<size_t>(tensor.ndim)}); }

}  // namespace ingot
