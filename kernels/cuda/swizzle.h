// Layouts of rows in shared memory that TMA writes and wgmma reads, and that have no bank conflicts.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ingot::ptx {

// The layout in which bytes lie in shared memory: with k128, the 16-byte piece i of a 128-byte row r is at place i ^ (r
// % 8); k64 and k32 do the same to 64-byte and 32-byte rows with (r / 2) % 4 and (r / 4) % 2. In all of them it is the
// bits of the address that count: bits 4.. are replaced by their exclusive or with bits 7.. (3, 2 or 1 bits). The
// values are those of matrix descriptors.
enum class Swizzle : uint32_t { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

// What Swizzle does to an offset from the start of memory that is aligned to 1,024 bytes.
__host__ __device__ __forceinline__ constexpr uint32_t Swizzled(Swizzle swizzle, uint32_t offset) {
  const uint32_t bits = swizzle == Swizzle::k128  ? 0x70
                        : swizzle == Swizzle::k64 ? 0x30
                        : swizzle == Swizzle::k32 ? 0x10
                                                  : 0;
  return offset ^ ((offset >> 3) & bits);
}

}  // namespace ingot::ptx
