// Numbers of 8 bits that stand for others: code = round(x / scale) + zero, and back.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

#include "cuda/ptx.h"

namespace ingot {

enum class Number : int { kFloat32, kFloat16, kBFloat16, kInt8, kE4M3 };

// kE4M3 has no zero: it is 0.
struct Codes {
  Number number = Number::kInt8;
  float inverse = 0;  // 1 / scale; 0 where nothing is rounded
  float zero = 0;
  float scale = 0;
};

namespace device {

// Ties go to even, and what is too large becomes the largest code. NaN becomes the least int8, as in QuantizeLinear.
__device__ __forceinline__ uint32_t Encode(const Codes& codes, float x) {
  x *= codes.inverse;
  if (codes.number == Number::kE4M3) return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
  return static_cast<uint32_t>(static_cast<int>(fminf(fmaxf(rintf(x) + codes.zero, -128.0f), 127.0f))) & 0xff;
}

__device__ __forceinline__ float Decode(const Codes& codes, uint32_t code) {
  if (codes.number == Number::kE4M3) {
    const __half_raw half = __nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(code), __NV_E4M3);
    return __half2float(__half(half)) * codes.scale;
  }
  return (static_cast<float>(static_cast<int8_t>(code)) - codes.zero) * codes.scale;
}

// What is left of a number that is stored as a code.
__device__ __forceinline__ float RoundToCodes(const Codes& codes, float x) {
  return codes.inverse == 0.0f ? x : Decode(codes, Encode(codes, x));
}

}  // namespace device
}  // namespace ingot
