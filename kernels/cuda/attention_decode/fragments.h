// What one type of keys and values means for the tensor cores: where things lie in shared memory, and fragments of
// them.
#pragma once

#include "cuda/attention/keys.h"

namespace ingot::cuda::decode {

constexpr int kRows = 16;      // of a product
constexpr int kTileKeys = 16;  // for each step of the running softmax
constexpr int kMostStages = 6;
// Scales of V below count as this for the greatest of a row: 2^-100, so that its reciprocal and sums of those are
// finite.
constexpr float kLeastScale = 7.8886091e-31f;

template <typename T>
__device__ T Rounded(float x);
template <>
__device__ inline __half Rounded<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ inline __nv_bfloat16 Rounded<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Waits until the oldest of stages - 1 tiles that are under way has come.
__device__ inline void WaitForTile(int32_t stages) {
  switch (stages) {
    case 2:
      return ptx::CopyAsyncWait<0>();
    case 3:
      return ptx::CopyAsyncWait<1>();
    case 4:
      return ptx::CopyAsyncWait<2>();
    case 5:
      return ptx::CopyAsyncWait<3>();
    default:
      return ptx::CopyAsyncWait<4>();
  }
}

// Two f16 of bytes of a register. kEven: bytes 0 and 2, kOdd: 1 and 3, kLow: 0 and 1, kHigh: 2 and 3.
enum class Bytes : uint8_t { kEven, kOdd, kLow, kHigh };

template <AttentionElement kCache, Bytes kBytes>
__device__ uint32_t Widened(uint32_t x) {
  if constexpr (kCache == AttentionElement::kInt8) {
    // A byte in the mantissa of 1,024 is that much more; the sign bit was flipped, which adds 128.
    constexpr uint32_t kSelector = kBytes == Bytes::kEven  ? 0x4240
                                   : kBytes == Bytes::kOdd ? 0x4341
                                   : kBytes == Bytes::kLow ? 0x4140
                                                           : 0x4342;
    const uint32_t biased = ptx::Permute(x ^ 0x80808080u, 0x64646464u, kSelector);
    __half2 pair;
    memcpy(static_cast<void*>(&pair), &biased, sizeof(pair));
    pair = __hsub2(pair, __float2half2_rn(1152.0f));
    uint32_t result;
    memcpy(&result, &pair, sizeof(result));
    return result;
  } else {
    constexpr uint32_t kSelector = kBytes == Bytes::kEven  ? 0x20
                                   : kBytes == Bytes::kOdd ? 0x31
                                   : kBytes == Bytes::kLow ? 0x10
                                                           : 0x32;
    const auto bytes = static_cast<__nv_fp8x2_storage_t>(ptx::Permute(x, 0, kSelector));
    const __half2_raw pair = __nv_cvt_fp8x2_to_halfraw2(bytes, __NV_E4M3);
    return uint32_t{pair.x} | uint32_t{pair.y} << 16;
  }
}

template <AttentionElement kCache, int kSize>
struct Shape {
  static constexpr bool kWide = kCache == AttentionElement::kHalf || kCache == AttentionElement::kBfloat;
  static constexpr bool kBrain = kCache == AttentionElement::kBfloat;
  using Multiplied = std::conditional_t<kBrain, __nv_bfloat16, __half>;
  static constexpr int kBytes = kWide ? 2 : 1;
  static constexpr int kWarps = kSize == 256 ? 2 : 4;
  // Rows are an odd number of 16-byte pieces apart, so that eight at a time are in different banks.
  static constexpr int kRowBytes = kSize * kBytes;
  static constexpr int kPitch = kRowBytes + 16;
  static constexpr int kPieces = kRowBytes / 16;
  static constexpr int kTileBytes = kTileKeys * kPitch;
  static constexpr int kStageBytes = 2 * kTileBytes + (kWide ? 0 : 2 * kTileKeys * 4);  // K, V and their scales
  static constexpr int kQueryPitch = 2 * kSize + 16;
  static constexpr int kQueryBytes = kRows * kQueryPitch;
  static constexpr int kOutPitch = kSize + 8;  // floats
  static constexpr bool kQueryRegisters = kSize <= 128;
  static constexpr int kLoadedSteps = kWide ? 1 : 2;  // that one ldmatrix of keys or values serves

  static_assert(kWarps * kRows * kOutPitch * 4 <= kWarps * 2 * kStageBytes);

  __device__ static void Multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (kBrain) {
      ptx::MmaBFloat16(sums, a, b);
    } else {
      ptx::MmaHalf(sums, a, b);
    }
  }

  __device__ static uint32_t Pack(float low, float high) {
    return kBrain ? ptx::PackBFloat16(low, high) : ptx::PackHalf(low, high);
  }

  // What Pack lost.
  __device__ static uint32_t Lost(float low, float high, uint32_t packed) {
    Multiplied pair[2];
    memcpy(static_cast<void*>(pair), &packed, sizeof(pair));
    return Pack(low - ToFloat(pair[0]), high - ToFloat(pair[1]));
  }

  // Elements 16 c to 16 c + 15 of the rows of Q. The order of elements within a step does not matter as long as K's is
  // the same: of bytes a lane gets four in a row.
  __device__ static void LoadQuery(uint32_t (&a)[4], uint32_t queries, int c, int lane) {
    const uint32_t at = queries + (lane / 4) * kQueryPitch + 32 * c + (kWide ? 4 : 8) * (lane % 4);
    constexpr uint32_t kUpper = kWide ? 16 : 4;
    a[0] = ptx::LoadShared32(at);
    a[1] = ptx::LoadShared32(at + 8 * kQueryPitch);
    a[2] = ptx::LoadShared32(at + kUpper);
    a[3] = ptx::LoadShared32(at + 8 * kQueryPitch + kUpper);
  }

  // Steps c to c + kLoadedSteps - 1 of 16 keys: for each step keys 0 to 7 and 8 to 15.
  __device__ static void LoadKeys(uint32_t (&b)[kLoadedSteps][2][2], uint32_t keys, int c, int lane) {
    if constexpr (kWide) {
      const uint32_t at = keys + (lane / 16 * 8 + lane % 8) * kPitch + 32 * c + 16 * (lane / 8 % 2);
      ptx::LoadMatrix4(b[0][0][0], b[0][0][1], b[0][1][0], b[0][1][1], at);
    } else {
      const uint32_t at = keys + (lane % 16) * kPitch + 16 * (c + lane / 16);
      uint32_t x[4];
      ptx::LoadMatrix4(x[0], x[1], x[2], x[3], at);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[i / 2][i % 2][0] = Widened<kCache, Bytes::kLow>(x[i]);
        b[i / 2][i % 2][1] = Widened<kCache, Bytes::kHigh>(x[i]);
      }
    }
  }

  // Elements 16 c to 16 (c + kLoadedSteps) - 1 of 16 values: fragments of 8 columns, which Column numbers.
  __device__ static void LoadValues(uint32_t (&b)[2 * kLoadedSteps][2], uint32_t values, int c, int lane) {
    if constexpr (kWide) {
      const uint32_t at = values + (lane % 16) * kPitch + 32 * c + 16 * (lane / 16);
      ptx::LoadMatrixTransposed4(b[0][0], b[0][1], b[1][0], b[1][1], at);
    } else {
      const uint32_t at = values + (lane % 16) * kPitch + 16 * (c + lane / 16);
      uint32_t x[4];
      ptx::LoadMatrixTransposed4(x[0], x[1], x[2], x[3], at);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[i / 2 * 2][i % 2] = Widened<kCache, Bytes::kEven>(x[i]);
        b[i / 2 * 2 + 1][i % 2] = Widened<kCache, Bytes::kOdd>(x[i]);
      }
    }
  }

  // The element of a head that column `column` of fragment n is: pairs of bytes are transposed together, so that
  // fragments of bytes are the even and the odd elements of 16.
  __device__ static int Column(int n, int column) { return kWide ? 8 * n + column : 16 * (n / 2) + 2 * column + n % 2; }
};

}  // namespace ingot::cuda::decode
