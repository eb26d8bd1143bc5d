// Elements of tensors of strings, and code points of UTF-8.
#pragma once

#include <ingot/ingot.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "kernel.h"

namespace ingot {

inline std::string_view View(const ingot_string& string) { return {string.data, string.size}; }
inline ingot_string FromView(std::string_view text) { return {text.data(), text.size()}; }

// The elements of a tensor, which have to be strings.
inline std::span<ingot_string> Strings(const DLTensor& tensor) {
  if (tensor.dtype.code != INGOT_STRING_CODE) FailKernel("takes strings, not ", DTypeText(tensor.dtype));
  return {Data<ingot_string>(tensor), static_cast<size_t>(ElementCount(tensor))};
}

inline void CheckType(const DLTensor& tensor, std::string_view expected) {
  if (DTypeText(tensor.dtype) != expected) FailKernel("gives or takes ", expected, ", not ", DTypeText(tensor.dtype));
}

constexpr uint32_t kReplacement = 0xFFFD;

// The code point that `text`, which is not empty, starts with; it is taken off. A byte that starts none is U+FFFD.
inline uint32_t TakeCodePoint(std::string_view& text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  const size_t bytes = first < 0x80 ? 1 : first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  bool valid = bytes == 1 || (first >= 0xC2 && first <= 0xF4 && text.size() >= bytes);
  uint32_t code = bytes == 1 ? first : first & (0x7Fu >> bytes);
  for (size_t i = 1; valid && i < bytes; ++i) {
    valid = (byte(i) & 0xC0) == 0x80;
    code = code << 6 | (byte(i) & 0x3F);
  }
  text.remove_prefix(valid ? bytes : 1);
  return valid ? code : kReplacement;
}

// Writes a code point, of at most 4 bytes, and returns the end of it.
inline char* PutCodePoint(uint32_t code, char* to) {
  const auto put = [&](uint32_t byte) { *to++ = static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
  return to;
}

}  // namespace ingot
