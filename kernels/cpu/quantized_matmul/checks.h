// What quantized_matmul asks of its tensors on every device.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>

#include "kernel.h"

namespace ingot::quantized_matmul {

inline bool Is(const DLTensor& tensor, uint8_t code, int bits) {
  return tensor.dtype.code == code && tensor.dtype.bits == bits && tensor.dtype.lanes == 1;
}

// The element type of floats, of a device's enumeration.
template <typename Element>
Element FloatOf(const DLTensor& tensor, const char* name) {
  if (Is(tensor, kDLFloat, 32)) return Element::kFloat;
  if (Is(tensor, kDLFloat, 16)) return Element::kHalf;
  if (Is(tensor, kDLBfloat, 16)) return Element::kBfloat;
  FailKernel("quantized_matmul takes ", std::string_view(name), " of float32, float16 or bfloat16, not ",
             DTypeText(tensor.dtype));
}

inline const DLTensor* Typed(const DLTensor* tensor, const char* name, uint8_t code, int bits) {
  if (tensor != nullptr && !Is(*tensor, code, bits))
    FailKernel("quantized_matmul does not take ", std::string_view(name), " of ", DTypeText(tensor->dtype));
  return tensor;
}

inline void CheckShape(const DLTensor* tensor, const char* name, std::initializer_list<int64_t> shape) {
  if (tensor == nullptr || std::ranges::equal(ShapeOf(*tensor), shape)) return;
  std::string wanted;
  for (const int64_t extent : shape) wanted += Text(wanted.empty() ? "" : ", ", extent);
  FailKernel("quantized_matmul: ", std::string_view(name), " is ", ShapeText(*tensor), ", not [", wanted, "]");
}

}  // namespace ingot::quantized_matmul
