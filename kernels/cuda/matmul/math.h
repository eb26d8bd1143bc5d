// The number types of products: what a fragment of 32 bytes of K is multiplied with.
//
// All of them lie in memory and in fragments alike: 16 bytes of a row are a piece, two pieces are the K of one mma
// (16 numbers of 16 bits, 32 of 8, 8 of 32), and a 32-bit register of a fragment holds neighbours in K.
#pragma once

#include "cuda/ptx.h"

namespace ingot::device {

struct HalfMath {
  using Sum = float;
  using Element = __half;
  static constexpr int kBytes = 2;
  __device__ static __forceinline__ void Mma(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::MmaHalf(d, a, b);
  }
};

struct BFloat16Math {
  using Sum = float;
  using Element = __nv_bfloat16;
  static constexpr int kBytes = 2;
  __device__ static __forceinline__ void Mma(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::MmaBFloat16(d, a, b);
  }
};

struct Int8Math {
  using Sum = int32_t;
  using Element = int8_t;
  static constexpr int kBytes = 1;
  __device__ static __forceinline__ void Mma(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::MmaInt8(d, a, b);
  }
};

struct E4M3Math {
  using Sum = float;
  using Element = __nv_fp8_e4m3;
  static constexpr int kBytes = 1;
  __device__ static __forceinline__ void Mma(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::MmaE4M3(d, a, b);
  }
};

template <int kCount>
__device__ __forceinline__ void RoundToTf32(uint32_t (&to)[kCount], const uint32_t (&from)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = ptx::ToTf32(__uint_as_float(from[i]));
}

// float32 as TF32, rounded to nearest: mma alone would cut.
struct Tf32Math {
  using Sum = float;
  using Element = float;
  static constexpr int kBytes = 4;
  __device__ static __forceinline__ void Mma(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t x[4];
    uint32_t w[2];
    RoundToTf32(x, a);
    RoundToTf32(w, b);
    ptx::MmaTf32(d, x, w);
  }
};

// A float32 number as the sum of two TF32 numbers. `cross` is what the other operand's lower part is multiplied with:
// the upper part, or 0 for infinities and NaN, which the product of the upper parts alone must decide about.
template <int kCount>
struct SplitTf32 {
  uint32_t upper[kCount];
  uint32_t cross[kCount];
  uint32_t lower[kCount];
  __device__ __forceinline__ explicit SplitTf32(const uint32_t (&from)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float x = __uint_as_float(from[i]);
      upper[i] = ptx::ToTf32(x);
      const bool finite = (upper[i] & 0x7f800000u) != 0x7f800000u;
      cross[i] = finite ? upper[i] : 0;
      lower[i] = finite ? ptx::ToTf32(x - __uint_as_float(upper[i])) : 0;
    }
  }
};

// float32 with float32's accuracy: what is left out, the product of the lower parts, is below 2^-22 of the product.
// Tensor cores cut what does not fit into a sum, which over thousands of steps adds up: a step's products are summed by
// themselves, and added as float32 adds.
struct Float32Math {
  using Sum = float;
  using Element = float;
  static constexpr int kBytes = 4;
  __device__ static __forceinline__ void Mma(Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const SplitTf32<4> x(a);
    const SplitTf32<2> w(b);
    Sum step[4] = {};
    ptx::MmaTf32(step, x.lower, w.cross);
    ptx::MmaTf32(step, x.cross, w.lower);
    ptx::MmaTf32(step, x.upper, w.upper);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] += step[i];
  }
};

}  // namespace ingot::device
