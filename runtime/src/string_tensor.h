// Tensors of strings: each element is an ingot_string, which points at UTF-8 that someone else owns.
#pragma once

#include <ingot/ingot.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "buffer.h"
#include "dtype.h"

namespace ingot {

static_assert(sizeof(ingot_string) == 16, "an element of a tensor of strings is an address and a size");

inline bool IsString(DLDataType type) { return type.code == INGOT_STRING_CODE && type.bits == INGOT_STRING_BITS; }

// Whether `text` is UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF.
bool IsUtf8(std::string_view text);

// What is wrong with strings that a caller or a file gives, or "": "element 3 is not UTF-8".
std::string FindBadString(std::span<const ingot_string> strings);

// Strings as files hold them (docs/format.md): count + 1 offsets, then the bytes that they divide. The result points
// into `stored`; an error says what does not fit.
std::vector<ingot_string> ReadStrings(std::span<const std::byte> stored, size_t count);

// Memory for what kernels write into strings. It lives until the results of the run have been handed over.
class StringHeap {
 public:
  explicit StringHeap(BufferPool& pool) : pool_(pool) {}

  char* Allocate(size_t bytes);
  void Clear();

 private:
  BufferPool& pool_;
  std::vector<BufferRef> blocks_;
  size_t left_ = 0;  // in the last block
};

// A buffer that holds the elements of a tensor of strings, and behind them all their bytes: it needs nothing else.
BufferRef PackStrings(std::span<const ingot_string> strings, BufferPool& pool);

}  // namespace ingot
