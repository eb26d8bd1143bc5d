#include "checksum.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ingot {
namespace {

constexpr uint32_t kPolynomial = 0xEDB88320;  // reflected
constexpr size_t kSlices = 16;

// kTables[k][b] is the checksum of byte b followed by k zero bytes (Kounavis and Berry, "Novel table lookup-based
// algorithms for high-performance CRC generation", 2008).
constexpr auto kTables = [] {
  std::array<std::array<uint32_t, 256>, kSlices> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < kSlices; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}();

// `crc` is the register: the complement of the checksum so far.
uint32_t UpdateTables(uint32_t crc, const uint8_t* data, size_t size) {
  for (; size >= kSlices; size -= kSlices, data += kSlices) {
    uint32_t words[kSlices / 4];
    std::memcpy(words, data, kSlices);
    words[0] ^= crc;
    crc = 0;
    for (size_t i = 0; i < kSlices; ++i) crc ^= kTables[kSlices - 1 - i][(words[i / 4] >> (8 * (i % 4))) & 0xFF];
  }
  for (; size > 0; --size, ++data) crc = (crc >> 8) ^ kTables[0][(crc ^ *data) & 0xFF];
  return crc;
}

#if defined(__x86_64__)

// Folds 64 bytes a step with carry-less multiplication (Gopal et al., "Fast CRC computation for generic polynomials
// using PCLMULQDQ", Intel 2009): 128 bits at distance d are multiplied by x^(d+64) and x^d modulo the polynomial.
// The constants are those of its appendix for the reflected polynomial: the folds by 512 and by 128 bits.
__attribute__((target("pclmul,sse4.1"))) uint32_t UpdateCarryless(uint32_t crc, const uint8_t* data, size_t size) {
  const __m128i by512 = _mm_set_epi64x(0x1C6E41596, 0x154442BD4);
  const __m128i by128 = _mm_set_epi64x(0x0CCAA009E, 0x1751997D0);
  const auto fold = [](__m128i value, __m128i constants, __m128i next) __attribute__((target("pclmul,sse4.1"))) {
    const __m128i low = _mm_clmulepi64_si128(value, constants, 0x00);
    const __m128i high = _mm_clmulepi64_si128(value, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
  };
  const auto load = [&](size_t at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + at)); };
  __m128i lanes[4] = {load(0), load(16), load(32), load(48)};
  lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
  for (data += 64, size -= 64; size >= 64; data += 64, size -= 64) {
    for (int i = 0; i < 4; ++i) lanes[i] = fold(lanes[i], by512, load(size_t{16} * static_cast<size_t>(i)));
  }
  __m128i folded = lanes[0];
  for (int i = 1; i < 4; ++i) folded = fold(folded, by128, lanes[i]);
  // The 16 bytes left stand for everything before: their checksum, by the tables, is the register.
  uint8_t rest[16];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(rest), folded);
  return UpdateTables(UpdateTables(0, rest, sizeof rest), data, size);
}

uint32_t Update(uint32_t crc, const uint8_t* data, size_t size) {
  static const bool carryless = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  return carryless && size >= 64 ? UpdateCarryless(crc, data, size) : UpdateTables(crc, data, size);
}

#else

uint32_t Update(uint32_t crc, const uint8_t* data, size_t size) { return UpdateTables(crc, data, size); }

#endif

}  // namespace

uint32_t Crc32(const void* data, size_t size, uint32_t crc) {
  return ~Update(~crc, static_cast<const uint8_t*>(data), size);
}

}  // namespace ingot
