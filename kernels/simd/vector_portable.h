// Vectors of floats: the vocabulary that kernels are written over once and compiled for each instruction set.
//
// Every vocabulary is a struct of the same names (Portable here; Avx2, Avx512, Neon in the files beside this one):
//
//   Float                    a vector of kLanes floats; + - * / work on it
//   kRegisters               how many of them the machine has
//   Set, Load, Store         Load and Store take float, Half and Bfloat16 memory of any alignment, Load int8 too
//   LoadPairs                2 kLanes of Bfloat16: those at even places, and those at odd ones
//   LoadFirst, StoreFirst    the first n lanes, n < kLanes; other lanes are 0, and their memory is not touched
//   Fma(a, b, c)             a * b + c, rounded once where the machine can
//   Max, Min                 if one operand is NaN, the result is the second
//   Abs, CopySign, ZeroBelow bits of floats; ZeroBelow(x, limit, y) is x < limit ? 0 : y
//   Select(x, limit, a, b)   x <= limit ? a : b
//   PowerOfTwo(t)            2^(b - 127) for the integer b in the lowest bits of t; 0 <= b <= 255
//   ReduceAdd, ReduceMax     over the lanes
//   StoreSums                ReduceAdd of four vectors, side by side
//   TransposeTile            kTile × kTile floats between rows that lie `stride` floats apart
//
// All functions are always inlined and templates take a vocabulary, so that no code that was compiled for one
// instruction set can be what the linker keeps for another. For the same reason such files call nothing else that is
// inline.
#pragma once

#include <cstdint>
#include <cstring>

#include "types.h"

#define INGOT_INLINE [[gnu::always_inline]] inline

namespace ingot::simd {

// What every machine has: four lanes, as compilers lower their own vectors.
struct Portable {
  typedef float Float __attribute__((vector_size(16)));
  typedef int32_t Bits __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 16;
  static constexpr int kTile = 4;

  INGOT_INLINE static Float Set(float x) { return Float{x, x, x, x}; }
  INGOT_INLINE static Float Load(const float* from) {
    Float x;
    std::memcpy(&x, from, sizeof(x));
    return x;
  }
  INGOT_INLINE static Float Load(const Half* from) {
    return Float{static_cast<float>(from[0]), static_cast<float>(from[1]), static_cast<float>(from[2]),
                 static_cast<float>(from[3])};
  }
  INGOT_INLINE static Float Load(const Bfloat16* from) {
    const Bits bits = {from[0].bits, from[1].bits, from[2].bits, from[3].bits};
    return reinterpret_cast<Float>(bits << 16);
  }
  INGOT_INLINE static Float Load(const int8_t* from) {
    return Float{static_cast<float>(from[0]), static_cast<float>(from[1]), static_cast<float>(from[2]),
                 static_cast<float>(from[3])};
  }
  INGOT_INLINE static void LoadPairs(const Bfloat16* from, Float& even, Float& odd) {
    Bits pairs;
    std::memcpy(&pairs, from, sizeof(pairs));
    even = reinterpret_cast<Float>(pairs << 16);
    odd = reinterpret_cast<Float>(pairs & INT32_C(-65536));
  }
  template <typename T>
  INGOT_INLINE static Float LoadFirst(const T* from, int64_t count) {
    T values[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) values[i] = from[i];
    return Load(values);
  }
  INGOT_INLINE static void Store(float* to, Float x) { std::memcpy(to, &x, sizeof(x)); }
  INGOT_INLINE static void Store(Half* to, Float x) {
    for (int i = 0; i < kLanes; ++i) to[i] = static_cast<Half>(x[i]);
  }
  INGOT_INLINE static void Store(Bfloat16* to, Float x) {
    const Bits wide = reinterpret_cast<Bits>(x);
    const Bits nan = (wide & 0x7FFFFFFF) > 0x7F800000;
    const Bits rounded = nan ? wide | 0x400000 : wide + 0x7FFF + (wide >> 16 & 1);  // to nearest even
    for (int i = 0; i < kLanes; ++i) to[i].bits = static_cast<uint16_t>(static_cast<uint32_t>(rounded[i]) >> 16);
  }
  template <typename T>
  INGOT_INLINE static void StoreFirst(T* to, int64_t count, Float x) {
    T values[kLanes];
    Store(values, x);
    for (int64_t i = 0; i < count; ++i) to[i] = values[i];
  }

  INGOT_INLINE static Float Fma(Float a, Float b, Float c) { return a * b + c; }
  INGOT_INLINE static Float Max(Float a, Float b) { return a > b ? a : b; }
  INGOT_INLINE static Float Min(Float a, Float b) { return a < b ? a : b; }
  INGOT_INLINE static Float Abs(Float x) { return reinterpret_cast<Float>(reinterpret_cast<Bits>(x) & 0x7FFFFFFF); }
  INGOT_INLINE static Float CopySign(Float magnitude, Float sign) {
    const Bits mask = Bits{} + INT32_MIN;
    return reinterpret_cast<Float>((reinterpret_cast<Bits>(magnitude) & ~mask) | (reinterpret_cast<Bits>(sign) & mask));
  }
  INGOT_INLINE static Float ZeroBelow(Float x, Float limit, Float y) { return x < limit ? Float{} : y; }
  INGOT_INLINE static Float Select(Float x, Float limit, Float a, Float b) { return x <= limit ? a : b; }
  INGOT_INLINE static Float PowerOfTwo(Float t) { return reinterpret_cast<Float>(reinterpret_cast<Bits>(t) << 23); }

  INGOT_INLINE static float ReduceAdd(Float x) { return (x[0] + x[2]) + (x[1] + x[3]); }
  INGOT_INLINE static void StoreSums(float* to, Float a, Float b, Float c, Float d) {
    Store(to, Float{ReduceAdd(a), ReduceAdd(b), ReduceAdd(c), ReduceAdd(d)});
  }
  INGOT_INLINE static float ReduceMax(Float x) {
    const float a = x[0] > x[2] ? x[0] : x[2];
    const float b = x[1] > x[3] ? x[1] : x[3];
    return a > b ? a : b;
  }
  INGOT_INLINE static void TransposeTile(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    const Float a = Load(from), b = Load(from + from_stride);
    const Float c = Load(from + 2 * from_stride), d = Load(from + 3 * from_stride);
    const Float ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Float cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    Store(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
    Store(to + to_stride, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
    Store(to + 2 * to_stride, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
    Store(to + 3 * to_stride, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
  }
};

}  // namespace ingot::simd
