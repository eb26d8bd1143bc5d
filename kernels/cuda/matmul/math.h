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

}  // namespace ingot::device
