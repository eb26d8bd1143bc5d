// Four lanes: AArch64's Advanced SIMD. vector_portable.h says what the names mean.
#pragma once

#include <arm_neon.h>

#include "simd/vector_portable.h"

namespace ingot::simd {

struct Neon {
  using Float = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 32;
  static constexpr int kTile = 4;

  INGOT_INLINE static Float Set(float x) { return vdupq_n_f32(x); }
  INGOT_INLINE static Float Load(const float* from) { return vld1q_f32(from); }
  INGOT_INLINE static Float Load(const Half* from) {
    return vcvt_f32_f16(vld1_f16(reinterpret_cast<const float16_t*>(from)));
  }
  INGOT_INLINE static Float Load(const Bfloat16* from) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(from)), 16));
  }
  INGOT_INLINE static Float Load(const int8_t* from) {
    int32_t four;
    std::memcpy(&four, from, sizeof(four));
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
  }
  INGOT_INLINE static void LoadPairs(const Bfloat16* from, Float& even, Float& odd) {
    const uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(from)));
    even = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    odd = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF0000)));
  }
  template <typename T>
  INGOT_INLINE static Float LoadFirst(const T* from, int64_t count) {
    T values[kLanes];
    std::memset(static_cast<void*>(values), 0, sizeof(values));
    for (int64_t i = 0; i < count; ++i) values[i] = from[i];
    return Load(values);
  }
  INGOT_INLINE static void Store(float* to, Float x) { vst1q_f32(to, x); }
  INGOT_INLINE static void Store(Half* to, Float x) { vst1_f16(reinterpret_cast<float16_t*>(to), vcvt_f16_f32(x)); }
  INGOT_INLINE static void Store(Bfloat16* to, Float x) {
    const uint32x4_t wide = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(wide, 16), vdupq_n_u32(1));
    const uint32x4_t even = vaddq_u32(vaddq_u32(wide, vdupq_n_u32(0x7FFF)), odd);
    const uint32x4_t bits = vbslq_u32(vceqq_f32(x, x), even, vorrq_u32(wide, vdupq_n_u32(0x400000)));
    vst1_u16(reinterpret_cast<uint16_t*>(to), vshrn_n_u32(bits, 16));
  }
  template <typename T>
  INGOT_INLINE static void StoreFirst(T* to, int64_t count, Float x) {
    T values[kLanes];
    Store(values, x);
    for (int64_t i = 0; i < count; ++i) to[i] = values[i];
  }

  INGOT_INLINE static Float Fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  INGOT_INLINE static Float Max(Float a, Float b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  INGOT_INLINE static Float Min(Float a, Float b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  INGOT_INLINE static Float Abs(Float x) { return vabsq_f32(x); }
  INGOT_INLINE static Float CopySign(Float magnitude, Float sign) {
    return vbslq_f32(vdupq_n_u32(0x80000000), sign, magnitude);
  }
  INGOT_INLINE static Float ZeroBelow(Float x, Float limit, Float y) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, limit)));
  }
  INGOT_INLINE static Float Select(Float x, Float limit, Float a, Float b) {
    return vbslq_f32(vcleq_f32(x, limit), a, b);
  }
  INGOT_INLINE static Float PowerOfTwo(Float t) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(t), 23));
  }

  INGOT_INLINE static float ReduceAdd(Float x) { return vaddvq_f32(x); }
  INGOT_INLINE static void StoreSums(float* to, Float a, Float b, Float c, Float d) {
    vst1q_f32(to, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
  }
  INGOT_INLINE static float ReduceMax(Float x) { return vmaxvq_f32(x); }
  INGOT_INLINE static void TransposeTile(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    const float32x4_t a = Load(from), b = Load(from + from_stride);
    const float32x4_t c = Load(from + 2 * from_stride), d = Load(from + 3 * from_stride);
    const float32x4x2_t ab = vtrnq_f32(a, b), cd = vtrnq_f32(c, d);
    Store(to, vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0])));
    Store(to + to_stride, vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1])));
    Store(to + 2 * to_stride, vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0])));
    Store(to + 3 * to_stride, vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1])));
  }
};

}  // namespace ingot::simd
