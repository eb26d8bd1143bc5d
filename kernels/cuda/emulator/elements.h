// Elements of products as numbers, from the bits of registers and shared memory.
#pragma once

#include <cstring>

#include "../ptx.h"

namespace ingot::emulator {

template <typename Type>
struct Element {  // of products in float; the sums of K products are rounded once
  static constexpr int kBytes = sizeof(Type);
  using Number = double;
  static Number Read(const std::byte* bytes) {
    Type value;
    std::memcpy(&value, bytes, sizeof value);
    return static_cast<float>(value);
  }
};

template <>
struct Element<ptx::Tf32> {
  static constexpr int kBytes = 4;
  using Number = double;
  static Number Read(const std::byte* bytes) {
    uint32_t bits;
    std::memcpy(&bits, bytes, sizeof bits);
    return __uint_as_float(bits & ~uint32_t{0x1fff});
  }
};

template <>
struct Element<int8_t> {
  static constexpr int kBytes = 1;
  using Number = int64_t;
  static Number Read(const std::byte* bytes) { return static_cast<int8_t>(*bytes); }
};

template <typename Type>
constexpr int kDepth = 32 / Element<Type>::kBytes;  // K of an instruction

// A fragment of A in registers, 16 x kDepth, of all lanes.
template <typename Type>
void ReadRows(const uint32_t (*registers)[4], typename Element<Type>::Number (*rows)[kDepth<Type>]) {
  constexpr int kInRegister = 4 / Element<Type>::kBytes;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const auto* bytes = reinterpret_cast<const std::byte*>(&registers[lane][i]);
      for (int part = 0; part < kInRegister; ++part) {
        const int k = i / 2 * (kDepth<Type> / 2) + lane % 4 * kInRegister + part;
        rows[lane / 4 + i % 2 * 8][k] = Element<Type>::Read(bytes + part * Element<Type>::kBytes);
      }
    }
  }
}

}  // namespace ingot::emulator
