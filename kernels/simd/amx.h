// Intel's AMX: eight registers of matrices, 16 rows of 64 bytes. A register of A is 16 rows with their k side by side;
// one of B has the k of 16 columns, two bfloat16 or four bytes of a column side by side, in rows.
#pragma once

#include <cstdint>

#include "simd/vector_avx512.h"

namespace ingot::simd {

constexpr int64_t kMatrixRows = 16;
constexpr int64_t kMatrixRowBytes = 64;

// Holds the registers of a thread in shapes: 0 to 3 are sums, 4 and 5 of A, 6 and 7 of B (Intel SDM, volume 2A,
// LDTILECFG).
class Matrices {
 public:
  struct Register {
    int64_t rows, bytes;
  };

  INGOT_INLINE explicit Matrices(const Register (&registers)[8]) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int i = 0; i < 8; ++i) {
      shape.bytes[i] = static_cast<uint16_t>(registers[i].bytes);
      shape.rows[i] = static_cast<uint8_t>(registers[i].rows);
    }
    _tile_loadconfig(&shape);
  }
  // Those of A have `bytes` bytes of k, at most 64, and the rows of B are a fourth of them; all else is whole.
  INGOT_INLINE explicit Matrices(int64_t bytes = kMatrixRowBytes)
      : Matrices({kSum,
                  kSum,
                  kSum,
                  kSum,
                  {kMatrixRows, bytes},
                  {kMatrixRows, bytes},
                  {bytes / 4, kMatrixRowBytes},
                  {bytes / 4, kMatrixRowBytes}}) {}
  Matrices(const Matrices&) = delete;
  Matrices& operator=(const Matrices&) = delete;
  INGOT_INLINE ~Matrices() { _tile_release(); }

 private:
  static constexpr Register kSum{kMatrixRows, kMatrixRowBytes};
};

}  // namespace ingot::simd
