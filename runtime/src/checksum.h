// CRC-32 (ISO 3309, ITU-T V.42; zlib's crc32).
#pragma once

#include <cstddef>
#include <cstdint>

namespace ingot {

// The checksum of `size` bytes; `crc` is the checksum of what stands before them.
uint32_t Crc32(const void* data, size_t size, uint32_t crc = 0);

}  // namespace ingot
