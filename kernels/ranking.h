// Elements and their places as integers: one comparison of two says which of the elements comes first, and of equal
// ones that of the first place. The order is OrderedBefore's (types.h), from the greatest on.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "types.h"

namespace ingot {

__extension__ typedef unsigned __int128 Wide;

// An integer with the order of T's values: NaN is the greatest, -0 is 0.
template <typename T>
using OrderKey = std::conditional_t<sizeof(T) <= 4, int32_t, int64_t>;

template <typename T>
struct FloatFormat;  // the integer of its bits, and how many of them are the mantissa's
template <>
struct FloatFormat<Half> {
  using Bits = int16_t;
  static constexpr int kMantissa = 10;
};
template <>
struct FloatFormat<Bfloat16> {
  using Bits = int16_t;
  static constexpr int kMantissa = 7;
};
template <>
struct FloatFormat<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23;
};
template <>
struct FloatFormat<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52;
};

template <typename T>
OrderKey<T> KeyOf(T value) {
  using Key = OrderKey<T>;
  if constexpr (std::is_unsigned_v<T> && sizeof(T) == sizeof(Key)) {
    return static_cast<Key>(value ^ static_cast<T>(std::numeric_limits<Key>::min()));
  } else if constexpr (std::is_integral_v<T>) {
    return value;
  } else {
    using Bits = typename FloatFormat<T>::Bits;
    constexpr Key kMost = std::numeric_limits<Bits>::max();
    constexpr Key kInfinity = kMost >> FloatFormat<T>::kMantissa << FloatFormat<T>::kMantissa;
    const Key bits = std::bit_cast<Bits>(value);
    const Key magnitude = bits & kMost;
    const Key key = bits < 0 ? -magnitude : magnitude;
    return magnitude > kInfinity ? std::numeric_limits<Key>::max() : key;
  }
}

// The value of a key of float or double; some NaN for that of NaN.
template <typename T>
T ValueOf(OrderKey<T> key) {
  constexpr OrderKey<T> kSign = std::numeric_limits<OrderKey<T>>::min();
  return std::bit_cast<T>(key < 0 ? -key | kSign : key);
}

// A key above a place, which is inverted: the greatest comes first. A uint64_t holds keys of 32 bits and places below
// 2^32 - 1, a Wide all there are; 0 is less than any of them.
template <typename Entry>
struct Ranked {
  using Part = std::conditional_t<sizeof(Entry) == 8, uint32_t, uint64_t>;
  static constexpr int kBits = static_cast<int>(sizeof(Part)) * 8;
  static constexpr Part kSign = Part{1} << (kBits - 1);

  static Entry Of(std::make_signed_t<Part> key, int64_t place) {
    return Entry{static_cast<Part>(static_cast<Part>(key) ^ kSign)} << kBits | static_cast<Part>(~place);
  }
  static std::make_signed_t<Part> Key(Entry entry) {
    return static_cast<std::make_signed_t<Part>>(static_cast<Part>(entry >> kBits) ^ kSign);
  }
  static int64_t Place(Entry entry) { return static_cast<int64_t>(static_cast<Part>(~static_cast<Part>(entry))); }
};

}  // namespace ingot
