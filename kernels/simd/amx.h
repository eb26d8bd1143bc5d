// Intel's AMX: eight registers of matrices, 16 rows of 64 bytes. A register of A is 16 rows with their k side by side;
// one of B has the k of 16 columns, two bfloat16 or four bytes of a column side by side, in rows.
#pragma once

#include <cstdint>

#include "simd/vector_avx512.h"

namespace ingot::simd {

constexpr int64_t kMatrixRows = 16;
constexpr int64_t kMatrixRowBytes = 64;

// Holds the registers of a thread in a shape: those of A have `bytes` bytes of k, at most 64, and the rows of B are a
// fourth of them; 0 to 3 are sums, 4 and 5 of A, 6 and 7 of B (Intel SDM, volume 2A, LDTILECFG).
class Matrices {
 public:
  explicit Matrices(int64_t bytes = kMatrixRowBytes) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int i = 0; i < 8; ++i) {
      shape.bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? bytes : kMatrixRowBytes);
      shape.rows[i] = static_cast<uint8_t>(i >= 6 ? bytes / 4 : kMatrixRows);
    }
    _tile_loadconfig(&shape);
  }
  Matrices(const Matrices&) = delete;
  Matrices& operator=(const Matrices&) = delete;
  ~Matrices() { _tile_release(); }
};

}  // namespace ingot::simd
