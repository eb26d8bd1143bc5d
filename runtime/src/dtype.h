// Element types: one table of names (NumPy's, with ml_dtypes' extensions), DLPack types and sizes.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace ingot {

struct DType {
  std::string_view name;
  DLDataType type;
  size_t bytes;  // of one element; types of less than 8 bits take one byte each
};

// The table's row, which lives as long as the process, or nullptr.
const DType* FindDType(std::string_view name);
const DType* FindDType(DLDataType type);

inline bool operator==(const DLDataType& a, const DLDataType& b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}

// A type for messages: its name, or its DLPack fields if it has none here.
std::string DTypeText(DLDataType type);

}  // namespace ingot
