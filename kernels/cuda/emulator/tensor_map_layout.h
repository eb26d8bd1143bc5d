// What an emulated CUtensorMap holds. The real one is opaque.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <cstring>

namespace ingot::emulator {

struct TensorMapLayout {
  uint64_t magic;
  std::byte* data;
  uint64_t extents[5];  // innermost first
  uint64_t strides[4];  // in bytes, of axes 1 on: below 2^40
  uint16_t box[5];
  uint8_t rank;
  uint8_t element_bytes;
  uint8_t swizzle;  // as ptx::Swizzle
  uint8_t nan_fill;
};
static_assert(sizeof(TensorMapLayout) <= sizeof(CUtensorMap));

constexpr uint64_t kTensorMapMagic = 0x70616d726f736e65;

inline TensorMapLayout ReadTensorMap(const CUtensorMap& map) {
  TensorMapLayout layout;
  std::memcpy(&layout, &map, sizeof layout);
  return layout;
}

}  // namespace ingot::emulator
