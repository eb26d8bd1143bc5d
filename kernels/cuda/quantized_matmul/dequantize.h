// Packed codes as operands of tensor cores, scales and zeros as numbers.
#pragma once

#include "cuda/ptx.h"
#include "cuda/quantized_matmul/problem.h"

namespace ingot::cuda::quantized_matmul {

// Pairs of 16-bit numbers. An integer is or'ed into the fraction of a number whose unit in the last place is 1.
template <typename T>
struct Pairs;

template <>
struct Pairs<__nv_bfloat16> {
  static constexpr uint32_t kOne = 0x3F803F80, kSixteen = 0x41804180, kInteger = 0x43004300;  // kInteger: 128
  INGOT_PTX static uint32_t Fma(uint32_t a, uint32_t b, uint32_t c) { return ptx::FmaBFloat16x2(a, b, c); }
  INGOT_PTX static uint32_t Pack(float low, float high) { return ptx::PackBFloat16(low, high); }
  INGOT_PTX static float Low(uint32_t pair) { return __uint_as_float(pair << 16); }
  INGOT_PTX static float High(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000); }
  INGOT_PTX static void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::MmaBFloat16(d, a, b);
  }
};

template <>
struct Pairs<__half> {
  static constexpr uint32_t kOne = 0x3C003C00, kSixteenth = 0x2C002C00, kInteger = 0x64006400;  // kInteger: 1024
  INGOT_PTX static uint32_t Fma(uint32_t a, uint32_t b, uint32_t c) { return ptx::FmaHalf2(a, b, c); }
  INGOT_PTX static uint32_t Pack(float low, float high) { return ptx::PackHalf(low, high); }
  INGOT_PTX static float Low(uint32_t pair) { return __half2float(__ushort_as_half(static_cast<uint16_t>(pair))); }
  INGOT_PTX static float High(uint32_t pair) { return Low(pair >> 16); }
  INGOT_PTX static void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { ptx::MmaHalf(d, a, b); }
};

template <typename T>
constexpr bool kIsHalf = sizeof(T) == 2 && Pairs<T>::kInteger == Pairs<__half>::kInteger;

// What is added to integers to make them the numbers that codes stand for, both halves alike: for the even registers of
// an operand (row g of a panel) and the odd ones (row g + 8).
struct Offsets {
  uint32_t even, odd;
};

// zero_even, zero_odd: the zeros of both rows.
template <typename T, Codes kCodes>
INGOT_PTX Offsets OffsetsOf(float zero_even, float zero_odd) {
  float even = 128, odd = 128;  // kInteger for bf16; what bytes are counted from
  if constexpr (kCodes == Codes::kNibbles) {
    even = kIsHalf<T> ? 1024 + 8 : 128 + 8;
    odd = kIsHalf<T> ? 1024 / 16 + 8 : 128 + 8;  // in halves, odd registers are 16 times the code before a product
  } else if constexpr (kIsHalf<T>) {
    even = odd = 1024 + 128;
  }
  return {Pairs<T>::Pack(-even - zero_even, -even - zero_even), Pairs<T>::Pack(-odd - zero_odd, -odd - zero_odd)};
}

// (a & b) | c
INGOT_PTX uint32_t AndOr(uint32_t a, uint32_t b, uint32_t c) { return ptx::Lop3<(0xf0 & 0xcc) | 0xaa>(a, b, c); }

// The operand A of a matrix whose codes are `word` (nibbles).
template <typename T, Codes kCodes>
INGOT_PTX void Dequantize(uint32_t word, const Offsets& offsets, const uint32_t* table, uint32_t (&a)[4]) {
  using P = Pairs<T>;
  if constexpr (kCodes == Codes::kTable) {
    // Four codes select bytes of 16: by their lower bits in either half of the table, then between the halves.
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t codes = word >> (16 * h);
      const uint32_t place = codes & 0x7777;
      const uint32_t half = AndOr(codes >> 1, 0x4444, 0x3210);
      const uint32_t low =
          ptx::Permute(ptx::Permute(table[0], table[1], place), ptx::Permute(table[2], table[3], place), half);
      const uint32_t high =
          ptx::Permute(ptx::Permute(table[4], table[5], place), ptx::Permute(table[6], table[7], place), half);
      a[2 * h] = ptx::Permute(low, high, 0x5140);
      a[2 * h + 1] = ptx::Permute(low, high, 0x7362);
    }
  } else if constexpr (kIsHalf<T>) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t codes = word >> (8 * h);
      a[2 * h] = P::Fma(AndOr(codes, 0x000F000F, P::kInteger), P::kOne, offsets.even);
      a[2 * h + 1] = P::Fma(AndOr(codes, 0x00F000F0, P::kInteger), P::kSixteenth, offsets.odd);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = P::Fma(AndOr(word >> (4 * i), 0x000F000F, P::kInteger), P::kOne, i % 2 == 0 ? offsets.even : offsets.odd);
  }
}

// The same for bytes, of two words.
template <typename T>
INGOT_PTX void DequantizeBytes(uint32_t low, uint32_t high, const Offsets& offsets, uint32_t (&a)[4]) {
  using P = Pairs<T>;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t codes = (i < 2 ? low : high) >> (8 * (i % 2));
    const uint32_t offset = i % 2 == 0 ? offsets.even : offsets.odd;
    if constexpr (kIsHalf<T>) {
      a[i] = P::Fma(AndOr(codes, 0x00FF00FF, P::kInteger), P::kOne, offset);
    } else {
      // A fraction of 7 bits has room for a nibble at a time; all steps are exact.
      const uint32_t lower = P::Fma(AndOr(codes, 0x000F000F, P::kInteger), P::kOne, offset);
      const uint32_t upper = P::Fma(AndOr(codes >> 4, 0x000F000F, P::kInteger), P::kSixteen, 0xC508C508);  // -2176
      a[i] = P::Fma(upper, P::kOne, lower);  // 16 upper - 128 + lower - zero
    }
  }
}

// 2^(code - 127): the exponent of a float, but for the least power, which is denormal, and NaN.
INGOT_PTX float PowerOf(uint32_t code) {
  return __uint_as_float(code == 0 ? 0x400000u : code == 255 ? 0x7FC00000u : code << 23);
}

// Calls read(number), where number(from, i) is element i of scales or zeros of a type as a float.
template <typename Read>
INGOT_PTX void WithNumbers(Element type, Read read) {
  switch (type) {
    case Element::kFloat:
      return read([](const uint8_t* from, auto i) { return reinterpret_cast<const float*>(from)[i]; });
    case Element::kHalf:
      return read([](const uint8_t* from, auto i) { return __half2float(reinterpret_cast<const __half*>(from)[i]); });
    case Element::kBfloat:
      return read([](const uint8_t* from, auto i) {
        return __uint_as_float(uint32_t{reinterpret_cast<const uint16_t*>(from)[i]} << 16);
      });
    case Element::kPower:
      return read([](const uint8_t* from, auto i) { return PowerOf(from[i]); });
    default:
      return read(
          [](const uint8_t* from, auto i) { return static_cast<float>(reinterpret_cast<const int8_t*>(from)[i]); });
  }
}

INGOT_PTX float ReadNumber(const uint8_t* from, Element type, int64_t index) {
  float result = 0;
  WithNumbers(type, [&](auto number) { result = number(from, index); });
  return result;
}

// Those of rows g and g + 8 of panels: `from` points at the former.
template <int kPanels>
INGOT_PTX void ReadRows(const uint8_t* const (&from)[kPanels], Element type, float (&to)[2 * kPanels]) {
  WithNumbers(type, [&](auto number) {
#pragma unroll
    for (int i = 0; i < kPanels; ++i) {
      to[2 * i] = number(from[i], 0);
      to[2 * i + 1] = number(from[i], 8);
    }
  });
}

}  // namespace ingot::cuda::quantized_matmul
