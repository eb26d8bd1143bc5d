// What ../ptx_math.h declares, emulated. Approximations are as inaccurate as documented where that is much.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "../ptx.h"

namespace ingot::ptx {

template <int kTable>
uint32_t Lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (int row = 0; row < 8; ++row) {
    if ((kTable >> row & 1) == 0) continue;
    result |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return result;
}

inline uint32_t Permute(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }

inline float Flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
inline float Exp2(float x) { return Flushed(std::exp2(Flushed(x))); }
inline float Log2(float x) { return std::log2(Flushed(x)); }
inline float Tanh(float x) { return __uint_as_float((__float_as_uint(std::tanh(x)) + 0x800) & 0xfffff000u); }
inline float Reciprocal(float x) { return Flushed(1.0f / Flushed(x)); }

inline uint32_t PackBFloat16(float low, float high) {
  return std::bit_cast<uint16_t>(__float2bfloat16_rn(low)) |
         uint32_t{std::bit_cast<uint16_t>(__float2bfloat16_rn(high))} << 16;
}
inline uint32_t PackHalf(float low, float high) {
  return std::bit_cast<uint16_t>(__float2half_rn(low)) | uint32_t{std::bit_cast<uint16_t>(__float2half_rn(high))} << 16;
}
inline uint16_t PackE4M3(float low, float high) {
  emulator::RequireCapability(89, "cvt.rn.satfinite.e4m3x2.f32");
  return static_cast<uint16_t>(__nv_cvt_float_to_fp8(low, __NV_SATFINITE, __NV_E4M3) |
                               __nv_cvt_float_to_fp8(high, __NV_SATFINITE, __NV_E4M3) << 8);
}
inline uint32_t ToTf32(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & ~uint32_t{0x1fff};
}

// In double, which holds products and nearly all sums exactly, so that the last conversion is the one rounding.
inline uint32_t FmaBFloat16x2(uint32_t a, uint32_t b, uint32_t c) {
  const auto number = [](uint32_t bits) { return double{__uint_as_float(bits << 16)}; };
  const auto fma = [&](int shift) {
    return static_cast<float>(std::fma(number(a >> shift), number(b >> shift), number(c >> shift)));
  };
  return PackBFloat16(fma(0), fma(16));
}
inline uint32_t FmaHalf2(uint32_t a, uint32_t b, uint32_t c) {
  const auto number = [](uint32_t bits) { return double{__half2float(__ushort_as_half(static_cast<uint16_t>(bits)))}; };
  const auto fma = [&](int shift) {
    return static_cast<float>(std::fma(number(a >> shift), number(b >> shift), number(c >> shift)));
  };
  return PackHalf(fma(0), fma(16));
}

inline const void* Aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    emulator::Trap("an access of 16 bytes to global memory that is not aligned");
  return address;
}
inline uint4 LoadReadOnly(const void* address) { return *static_cast<const uint4*>(Aligned(address, 16)); }
inline uint4 LoadOnce(const void* address) { return LoadReadOnly(address); }
inline uint4 LoadStreaming(const void* address) { return LoadReadOnly(address); }
inline void StoreStreaming(void* address, uint4 v) { std::memcpy(const_cast<void*>(Aligned(address, 16)), &v, 16); }

inline uint32_t LoadShared32(uint32_t address) {
  uint32_t v;
  std::memcpy(&v, emulator::SharedPointer(address, 4, 4, "ld.shared.u32"), 4);
  return v;
}
inline uint4 LoadShared128(uint32_t address) {
  uint4 v;
  std::memcpy(&v, emulator::SharedPointer(address, 16, 16, "ld.shared.v4.u32"), 16);
  return v;
}
inline void StoreShared32(uint32_t address, uint32_t v) {
  std::memcpy(emulator::SharedPointer(address, 4, 4, "st.shared.u32"), &v, 4);
}
inline void StoreShared128(uint32_t address, uint4 v) {
  std::memcpy(emulator::SharedPointer(address, 16, 16, "st.shared.v4.u32"), &v, 16);
}

}  // namespace ingot::ptx
