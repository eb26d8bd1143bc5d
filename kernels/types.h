// C++ types of tensor elements, and dispatch on them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernel.h"

namespace ingot {

#if defined(__aarch64__)
using Half = __fp16;  // what GCC 12 calls it in C++; arithmetic is in float either way
#else
using Half = _Float16;
#endif

struct Bfloat16 {
  uint16_t bits;

  Bfloat16() = default;
  explicit Bfloat16(float value) {
    const auto wide = std::bit_cast<uint32_t>(value);
    const bool nan = (wide & 0x7FFFFFFF) > 0x7F800000;
    bits = static_cast<uint16_t>((nan ? wide | 0x400000 : wide + 0x7FFF + (wide >> 16 & 1)) >> 16);  // to nearest even
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

// The type that arithmetic on T is done in.
template <typename T>
using Computed = std::conditional_t<std::is_same_v<T, Half> || std::is_same_v<T, Bfloat16>, float, T>;

template <typename T>
Computed<T> Widen(T value) {
  return static_cast<Computed<T>>(value);
}

// The order that sorting uses: as numbers, NaN after all of them (NumPy's).
template <typename T>
bool OrderedBefore(T a, T b) {
  const Computed<T> x = Widen(a);
  const Computed<T> y = Widen(b);
  if constexpr (std::is_floating_point_v<Computed<T>>) {
    if (std::isnan(x)) return false;
    if (std::isnan(y)) return true;
  }
  return x < y;
}

// Calls body(T()) with the type of a tensor's elements. bool is uint8_t; integers of less than 8 bits are bytes.
template <typename Body>
void DispatchNumber(const char* kernel, const DLTensor& tensor, Body&& body) {
  const uint8_t bits = tensor.dtype.bits <= 8 ? 8 : tensor.dtype.bits;
  switch (tensor.dtype.code) {
    case kDLInt:
      return bits == 8 ? body(int8_t{}) : bits == 16 ? body(int16_t{}) : bits == 32 ? body(int32_t{}) : body(int64_t{});
    case kDLUInt:
      return bits == 8    ? body(uint8_t{})
             : bits == 16 ? body(uint16_t{})
             : bits == 32 ? body(uint32_t{})
                          : body(uint64_t{});
    case kDLBool:
      return body(uint8_t{});
    case kDLFloat:
      return bits == 16 ? body(Half{}) : bits == 32 ? body(float{}) : body(double{});
    case kDLBfloat:
      return body(Bfloat16{});
    default:
      FailKernel(std::string_view(kernel), " does not take ", DTypeText(tensor.dtype));
  }
}

// Calls body(T()) with an unsigned type of the size of a tensor's elements: for kernels that only move them.
struct alignas(8) Bytes16 {
  uint64_t words[2];
};
template <typename Body>
void DispatchSize(const DLTensor& tensor, Body&& body) {
  switch (ElementBytes(tensor)) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(uint16_t{});
    case 4:
      return body(uint32_t{});
    case 8:
      return body(uint64_t{});
    default:
      return body(Bytes16{});
  }
}

}  // namespace ingot
