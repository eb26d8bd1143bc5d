// Tensor maps: what TMA (ptx_copy.h) reads to find the boxes of a tensor in device memory.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <span>

#include "swizzle.h"

namespace ingot {

// A map of a tensor of rank 1 to 5 (the number of extents). Everything is innermost axis first; the innermost axis is
// contiguous.
//   type: CU_TENSOR_MAP_DATA_TYPE_UINT8, _FLOAT16, _BFLOAT16, _FLOAT32, ...
//   data: aligned to 16 bytes
//   extents: in elements
//   strides: in bytes, of axes 1 on, one fewer than extents; multiples of 16
//   box: in elements, at most 256 each; the innermost is 128, 64 or 32 bytes if `swizzle` says so, else a multiple of
//   16 bytes
// Throws Error with a sentence for what does not fit. Pass the map to the kernel by value, as `const __grid_constant__
// CUtensorMap`.
CUtensorMap MakeTensorMap(CUtensorMapDataType type, const void* data, std::span<const uint64_t> extents,
                          std::span<const uint64_t> strides, std::span<const uint32_t> box, ptx::Swizzle swizzle);

}  // namespace ingot
