// CUDA's device functions for emulated kernels: warp and block synchronization, atomics, and arithmetic. What a C++
// compiler finds in CUDA's own headers or in <cmath> is not here. Included by emulator.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "emulator.h"

// ---- Blocks --------------------------------------------------------------------------------------------------------
inline void __syncthreads() { ::ingot::emulator::SyncThreads(); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { ::ingot::emulator::Yield(); }
[[noreturn]] inline void __trap() { ::ingot::emulator::Trap("__trap"); }

// Each thread's votes go through one place: threads set it, and read it before any can set it again.
int __syncthreads_count(int predicate);
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate != 0) != 0; }
int __syncthreads_and(int predicate);

// ---- Warps, with full masks ----------------------------------------------------------------------------------------
namespace ingot::emulator {

void RequireFullMask(unsigned mask, const char* what);

template <typename T>
struct Exchange {
  T value;
  T result;
  int source;
  int width;
};

// Each lane gets the value of lane `source`, which it computes from its own number; itself where that is negative.
template <typename T>
T Shuffle(unsigned mask, const char* name, T value, int source, int width) {
  RequireFullMask(mask, name);
  Exchange<T> exchange{value, value, source, width};
  Collective(name, exchange, [](Exchange<T>* const* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane]->source >= 0) lanes[lane]->result = lanes[lanes[lane]->source & 31]->value;
    }
  });
  return exchange.result;
}

int Lane();
unsigned Ballot(unsigned mask, const char* name, bool predicate);

template <typename T, typename Combine>
T Reduce(unsigned mask, const char* name, T value, Combine) {
  RequireFullMask(mask, name);
  Exchange<T> exchange{value, value, 0, 32};
  Collective(name, exchange, [](Exchange<T>* const* lanes) {
    T total = lanes[0]->value;
    for (int lane = 1; lane < 32; ++lane) total = Combine{}(total, lanes[lane]->value);
    for (int lane = 0; lane < 32; ++lane) lanes[lane]->result = total;
  });
  return exchange.result;
}

}  // namespace ingot::emulator

inline void __syncwarp(unsigned mask = 0xffffffff) { ::ingot::emulator::Ballot(mask, "__syncwarp", false); }
inline unsigned __activemask() { return 0xffffffff; }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return ::ingot::emulator::Ballot(mask, "__ballot_sync", predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return ::ingot::emulator::Ballot(mask, "__any_sync", predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return ::ingot::emulator::Ballot(mask, "__all_sync", predicate != 0) == 0xffffffff;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = ::ingot::emulator::Lane() / width * width;
  return ::ingot::emulator::Shuffle(mask, "__shfl_sync", value, first + (source & (width - 1)), width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = ::ingot::emulator::Lane();
  const int source = lane - static_cast<int>(delta);
  return ::ingot::emulator::Shuffle(mask, "__shfl_up_sync", value, source >= lane / width * width ? source : -1, width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = ::ingot::emulator::Lane();
  const int source = lane + static_cast<int>(delta);
  return ::ingot::emulator::Shuffle(mask, "__shfl_down_sync", value,
                                    source < lane / width * width + width ? source : -1, width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = ::ingot::emulator::Lane();
  const int source = lane ^ bits;
  // Lanes of earlier groups can be read, those of later ones cannot.
  return ::ingot::emulator::Shuffle(mask, "__shfl_xor_sync", value, source < lane / width * width + width ? source : -1,
                                    width);
}

template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  unsigned same = 0;
  for (int lane = 0; lane < 32; ++lane) same |= static_cast<unsigned>(__shfl_sync(mask, value, lane) == value) << lane;
  return same;
}

template <typename T>
T __reduce_add_sync(unsigned mask, T value) {
  return ::ingot::emulator::Reduce(mask, "__reduce_add_sync", value, [](T a, T b) {
    return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
  });
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value) {
  return ::ingot::emulator::Reduce(mask, "__reduce_min_sync", value, [](T a, T b) { return a < b ? a : b; });
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value) {
  return ::ingot::emulator::Reduce(mask, "__reduce_max_sync", value, [](T a, T b) { return a > b ? a : b; });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return ::ingot::emulator::Reduce(mask, "__reduce_and_sync", value, [](unsigned a, unsigned b) { return a & b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return ::ingot::emulator::Reduce(mask, "__reduce_or_sync", value, [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
  return ::ingot::emulator::Reduce(mask, "__reduce_xor_sync", value, [](unsigned a, unsigned b) { return a ^ b; });
}

// ---- Atomics: threads take turns only where they wait
// ----------------------------------------------------------------
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old - value;
  return old;
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old > value ? old : value;
  return old;
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old < value ? old : value;
  return old;
}
template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = value;
  return old;
}
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old | value;
  return old;
}
template <typename T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old & value;
  return old;
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  const unsigned old = *address;
  *address = old >= limit ? 0 : old + 1;
  return old;
}

// ---- Loads and stores with hints -----------------------------------------------------------------------------------
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
template <typename T>
T __ldca(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}
template <typename T>
void __stcg(T* address, std::type_identity_t<T> value) {
  *address = value;
}

// ---- Bits ----------------------------------------------------------------------------------------------------------
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1) << (31 - i);
  return result;
}
// What prmt computes: bit 3 of a selector spreads the byte's sign.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned choice = selector >> (4 * i) & 0xf;
    const auto byte = static_cast<unsigned>(bytes >> (8 * (choice & 7)) & 0xff);
    result |= (choice & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return sum;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }

// ---- Arithmetic ----------------------------------------------------------------------------------------------------
inline float __expf(float x) { return std::exp(x); }
inline float __exp10f(float x) { return std::pow(10.0f, x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __log10f(float x) { return std::log10(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline void __sincosf(float x, float* sine, float* cosine) {
  *sine = std::sin(x);
  *cosine = std::cos(x);
}
inline float __tanf(float x) { return std::tan(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(std::floor(x)); }
inline int __float2int_ru(float x) { return static_cast<int>(std::ceil(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(std::nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return static_cast<unsigned>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline long long clock64() { return 0; }

// CUDA's are there for all types, and for two types of one kind.
template <typename A, typename B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
template <typename A, typename B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
}
