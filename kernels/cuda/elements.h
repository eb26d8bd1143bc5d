// Elements of float32, float16 or bfloat16 whose type is known when a kernel starts: a few at a time, as floats.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "cuda/kernel.h"

namespace ingot::cuda {

enum class FloatType : int32_t { kFloat, kHalf, kBfloat };

struct Floats {
  void* data = nullptr;  // nullptr: there are none
  FloatType type = FloatType::kFloat;
};

inline bool IsFloatType(const DLTensor& tensor) {
  const bool narrow = tensor.dtype.bits == 16 && (tensor.dtype.code == kDLFloat || tensor.dtype.code == kDLBfloat);
  return tensor.dtype.lanes == 1 && (narrow || (tensor.dtype.code == kDLFloat && tensor.dtype.bits == 32));
}

// A tensor's elements; throws if they are of another type.
inline Floats FloatsOf(const DLTensor& tensor, std::string_view kernel, std::string_view name) {
  if (!IsFloatType(tensor))
    FailKernel(kernel, " takes ", name, " of float32, float16 or bfloat16, not ", DTypeText(tensor.dtype));
  const FloatType type = tensor.dtype.bits == 32          ? FloatType::kFloat
                         : tensor.dtype.code == kDLBfloat ? FloatType::kBfloat
                                                          : FloatType::kHalf;
  return {Data<std::byte>(tensor), type};
}

inline size_t BytesOf(FloatType type) { return type == FloatType::kFloat ? 4 : 2; }

__device__ inline float LoadElement(const Floats& floats, int64_t i) {
  switch (floats.type) {
    case FloatType::kHalf:
      return __half2float(static_cast<const __half*>(floats.data)[i]);
    case FloatType::kBfloat:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(floats.data)[i]);
    default:
      return static_cast<const float*>(floats.data)[i];
  }
}

__device__ inline void StoreElement(const Floats& floats, int64_t i, float x) {
  switch (floats.type) {
    case FloatType::kHalf:
      static_cast<__half*>(floats.data)[i] = __float2half_rn(x);
      return;
    case FloatType::kBfloat:
      static_cast<__nv_bfloat16*>(floats.data)[i] = __float2bfloat16_rn(x);
      return;
    default:
      static_cast<float*>(floats.data)[i] = x;
  }
}

// Elements from i on, which start at a multiple of 4 elements in memory.
__device__ inline void LoadFour(const Floats& floats, int64_t i, float (&to)[4]) {
  if (floats.type == FloatType::kFloat) {
    const float4 four = *reinterpret_cast<const float4*>(static_cast<const float*>(floats.data) + i);
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
    return;
  }
  const uint2 packed = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(floats.data) + i);
  if (floats.type == FloatType::kHalf) {
    __half four[4];
    memcpy(static_cast<void*>(four), &packed, sizeof(four));
#pragma unroll
    for (int j = 0; j < 4; ++j) to[j] = __half2float(four[j]);
  } else {
    __nv_bfloat16 four[4];
    memcpy(static_cast<void*>(four), &packed, sizeof(four));
#pragma unroll
    for (int j = 0; j < 4; ++j) to[j] = __bfloat162float(four[j]);
  }
}

__device__ inline void StoreFour(const Floats& floats, int64_t i, const float (&from)[4]) {
  if (floats.type == FloatType::kFloat) {
    *reinterpret_cast<float4*>(static_cast<float*>(floats.data) + i) = {from[0], from[1], from[2], from[3]};
    return;
  }
  uint2 packed;
  if (floats.type == FloatType::kHalf) {
    __half four[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) four[j] = __float2half_rn(from[j]);
    memcpy(&packed, four, sizeof(packed));
  } else {
    __nv_bfloat16 four[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) four[j] = __float2bfloat16_rn(from[j]);
    memcpy(&packed, four, sizeof(packed));
  }
  *reinterpret_cast<uint2*>(static_cast<uint16_t*>(floats.data) + i) = packed;
}

// Whether rows of n elements can be read and written four at a time.
inline bool InFours(const Floats& floats, int64_t n) {
  return n % 4 == 0 && reinterpret_cast<uintptr_t>(floats.data) % (4 * BytesOf(floats.type)) == 0;
}

}  // namespace ingot::cuda
