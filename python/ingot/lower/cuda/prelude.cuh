// What every file of generated CUDA code begins with (python/ingot/lower/cuda).
//
// float16, bfloat16 and the 8-bit floats are computed as float: Wide reads them, Narrow rounds to them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(INGOT_EMULATE)  // what a C++ compiler does not have (tests/lower/cuda)
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
#endif

namespace {

// Where a kernel reports data that it does not take: DeviceFault of runtime/src/fault.h.
struct Fault {
  unsigned long long step;
  int64_t kind, values[4];
};

// An index into an axis, made non-negative. One that is out of range is reported, the first of all, and the nearest taken in its place.
__device__ inline int64_t Within(int64_t index, int64_t extent, void* place, uint64_t step) {
  const int64_t at = index < 0 ? index + extent : index;
  if (at >= 0 && at < extent) return at;
  auto* const fault = static_cast<Fault*>(place);
  if (fault != nullptr && atomicCAS(&fault->step, 0ull, static_cast<unsigned long long>(step)) == 0) {
    fault->kind = 0;  // FaultKind::kIndex
    fault->values[0] = index;
    fault->values[1] = extent;
  }
  return at < 0 ? 0 : extent > 0 ? extent - 1 : 0;
}

// Elements that lie side by side, read and written at once.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount <= 16 ? sizeof(T) * kCount : 16) Vec {
  T v[kCount];
};

// Whether pieces of a tensor can be read at once: what the caller gives, and rows of states, may start anywhere. The same for all threads.
template <typename T, int kCount>
__device__ inline bool Aligned(const T* tensor) {
  return reinterpret_cast<uintptr_t>(tensor) % alignof(Vec<T, kCount>) == 0;
}

// The elements of a tensor from `at` on, which is a multiple of their number.
template <typename T, int kCount>
__device__ inline Vec<T, kCount> LoadVec(const T* tensor, int64_t at) {
  if (Aligned<T, kCount>(tensor)) return *reinterpret_cast<const Vec<T, kCount>*>(tensor + at);
  Vec<T, kCount> value;
#pragma unroll
  for (int i = 0; i < kCount; ++i) value.v[i] = tensor[at + i];
  return value;
}
template <typename T, int kCount>
__device__ inline void StoreVec(T* tensor, int64_t at, const Vec<T, kCount>& value) {
  if (Aligned<T, kCount>(tensor)) {
    *reinterpret_cast<Vec<T, kCount>*>(tensor + at) = value;
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) tensor[at + i] = value.v[i];
}

template <typename T>
__device__ inline T Wide(T value) {
  return value;
}
__device__ inline float Wide(__half value) { return __half2float(value); }
__device__ inline float Wide(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float Wide(__nv_fp8_e4m3 value) { return static_cast<float>(value); }
__device__ inline float Wide(__nv_fp8_e5m2 value) { return static_cast<float>(value); }

template <typename T>
struct Narrower {
  template <typename From>
  static __device__ inline T From_(From value) {
    return static_cast<T>(value);
  }
};
template <>
struct Narrower<__half> {
  static __device__ inline __half From_(float value) { return __float2half_rn(value); }
  static __device__ inline __half From_(double value) { return __double2half(value); }
};
template <>
struct Narrower<__nv_bfloat16> {
  static __device__ inline __nv_bfloat16 From_(float value) { return __float2bfloat16_rn(value); }
  static __device__ inline __nv_bfloat16 From_(double value) { return __double2bfloat16(value); }
};
template <>
struct Narrower<__nv_fp8_e4m3> {
  static __device__ inline __nv_fp8_e4m3 From_(float value) { return __nv_fp8_e4m3(value); }
};
template <>
struct Narrower<__nv_fp8_e5m2> {
  static __device__ inline __nv_fp8_e5m2 From_(float value) { return __nv_fp8_e5m2(value); }
};

// A value in the type that it is stored in.
template <typename T, typename From>
__device__ inline T Narrow(From value) {
  return Narrower<T>::From_(value);
}
// A value rounded to a type, in the type that it is computed in.
template <typename T, typename From>
__device__ inline float Rounded(From value) {
  return Wide(Narrow<T>(value));
}

template <typename To, typename From>
__device__ inline To Bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

// Division that rounds down, and what it leaves.
template <typename A, typename B>
__device__ inline auto FloorDiv(A a, B b) {
  const auto quotient = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? quotient - 1 : quotient;
}
template <typename A, typename B>
__device__ inline auto FloorMod(A a, B b) {
  const auto rest = a % b;
  return (rest != 0 && (rest < 0) != (b < 0)) ? rest + b : rest;
}

template <typename T>
__device__ inline bool IsNan(T value) {
  return value != value;
}
__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline double Sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
__device__ inline int PopCount(uint64_t x) { return __popcll(x); }

template <typename T>
__device__ inline T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
__device__ inline bool ShuffleXor(bool value, int mask) { return __shfl_xor_sync(0xffffffffu, static_cast<int>(value), mask) != 0; }
__device__ inline int8_t ShuffleXor(int8_t value, int mask) {
  return static_cast<int8_t>(__shfl_xor_sync(0xffffffffu, static_cast<int>(value), mask));
}
__device__ inline uint8_t ShuffleXor(uint8_t value, int mask) {
  return static_cast<uint8_t>(__shfl_xor_sync(0xffffffffu, static_cast<unsigned>(value), mask));
}
__device__ inline int16_t ShuffleXor(int16_t value, int mask) {
  return static_cast<int16_t>(__shfl_xor_sync(0xffffffffu, static_cast<int>(value), mask));
}
__device__ inline uint16_t ShuffleXor(uint16_t value, int mask) {
  return static_cast<uint16_t>(__shfl_xor_sync(0xffffffffu, static_cast<unsigned>(value), mask));
}

// What the threads of a row have, combined, for all of them: a warp, or the whole block through `shared`, of 32 elements.
template <int kThreads, typename T, typename Combine>
__device__ inline T Combined(T value, T* shared, Combine combine) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value = combine(value, ShuffleXor(value, mask));
  if constexpr (kThreads > 32) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    __syncthreads();  // an earlier result has been read
    if (threadIdx.x % 32 == 0) shared[warp] = value;
    __syncthreads();
    value = shared[0];
#pragma unroll
    for (int i = 1; i < kThreads / 32; ++i) value = combine(value, shared[i]);
  }
  return value;
}

}  // namespace

