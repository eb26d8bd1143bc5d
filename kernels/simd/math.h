// Elementary functions over a vocabulary of vectors (vector_portable.h).
#pragma once

#include "simd/vector_portable.h"

namespace ingot::simd {

// x = n ln 2 + r with an integer n and |r| <= ln 2 / 2. `shifted` holds n + 127 in its lowest bits.
template <typename V>
struct Reduced {
  typename V::Float shifted;
  typename V::Float r;
};

template <typename V>
INGOT_INLINE Reduced<V> ReduceByLn2(typename V::Float x) {
  // At 1.5 × 2^23 the unit in the last place is 1: the addition rounds to an integer.
  const auto magic = V::Set(12582912.0f + 127.0f);
  const auto shifted = V::Fma(x, V::Set(1.44269504f), magic);
  const auto n = shifted - magic;
  // ln 2 in two parts; the first has 9 bits, so that its product with n is exact even without a fused operation.
  const auto r = V::Fma(n, V::Set(-0.693359375f), x);
  return {shifted, V::Fma(n, V::Set(2.12194440e-4f), r)};
}

// (e^r - 1 - r) / r² for |r| <= ln 2 / 2. With 1 + r it is the minimax polynomial of degree 6 for e^r (Remez'
// algorithm): relative error 1.9e-9, a thirtieth of half a unit in the last place.
template <typename V>
INGOT_INLINE typename V::Float ExpTail(typename V::Float r) {
  auto p = V::Fma(V::Set(1.3836846e-3f), r, V::Set(8.3748158e-3f));
  p = V::Fma(p, r, V::Set(4.1668226e-2f));
  p = V::Fma(p, r, V::Set(1.6666420e-1f));
  return V::Fma(p, r, V::Set(4.9999992e-1f));
}

// e^x for x <= 88, within 1.1 units in the last place; 0 below ln 2^-126; NaN of NaN. Larger x give garbage.
template <typename V>
INGOT_INLINE typename V::Float ExpUpTo88(typename V::Float x) {
  const auto [shifted, r] = ReduceByLn2<V>(x);
  const auto one = V::Set(1.0f);
  const auto p = V::Fma(V::Fma(ExpTail<V>(r), r, one), r, one);
  return V::ZeroBelow(x, V::Set(-87.336544f), p * V::PowerOfTwo(shifted));
}

// 2^x for x <= 127, within 1.1 units in the last place; 0 below -126; NaN of NaN. Larger x give garbage.
template <typename V>
INGOT_INLINE typename V::Float Exp2UpTo127(typename V::Float x) {
  // 2^r for |r| <= 1/2, where (2^r - 1) / r is of least relative error (Remez' algorithm): 2.0e-9.
  const auto power = [](typename V::Float r) __attribute__((always_inline)) {
    auto p = V::Fma(V::Set(1.5353362e-4f), r, V::Set(1.3398874e-3f));
    p = V::Fma(p, r, V::Set(9.618437e-3f));
    p = V::Fma(p, r, V::Set(5.5503324e-2f));
    p = V::Fma(p, r, V::Set(2.4022648e-1f));
    p = V::Fma(p, r, V::Set(6.931472e-1f));
    return V::Fma(p, r, V::Set(1.0f));
  };
  const auto least = V::Set(-126.0f);
  if constexpr (requires { V::FractionOf(x); }) {
    const auto r = V::FractionOf(x);
    return V::ZeroBelow(x, least, V::TimesPowerOfTwo(power(r), x - r));
  } else {
    // At 1.5 × 2^23 the unit in the last place is 1: the addition rounds to an integer.
    const auto magic = V::Set(12582912.0f + 127.0f);
    const auto shifted = x + magic;
    return V::ZeroBelow(x, least, power(x - (shifted - magic)) * V::PowerOfTwo(shifted));
  }
}

// e^x, within 1.1 units in the last place; 0 below ln 2^-126, infinity from 127.5 ln 2 (88.4) on.
template <typename V>
INGOT_INLINE typename V::Float Exp(typename V::Float x) {
  return ExpUpTo88<V>(V::Min(V::Set(88.5f), x));
}

// tanh x, within 3 units in the last place: t / (t + 2) for t = e^2|x| - 1, which is computed without cancellation.
template <typename V>
INGOT_INLINE typename V::Float Tanh(typename V::Float x) {
  const auto twice = V::Min(V::Set(20.0f), V::Abs(x) * V::Set(2.0f));  // tanh 10 is 1 in single precision
  const auto [shifted, r] = ReduceByLn2<V>(twice);
  const auto power = V::PowerOfTwo(shifted);
  const auto fraction = V::Fma(ExpTail<V>(r) * r, r, r);
  const auto t = V::Fma(power, fraction, power - V::Set(1.0f));
  return V::CopySign(t / (t + V::Set(2.0f)), x);
}

// erf x, within 5 units in the last place: the rational function of python/ingot/lower/cpu/math.py. NaN of NaN.
template <typename V>
INGOT_INLINE typename V::Float Erf(typename V::Float x) {
  const auto limit = V::Set(3.92f), one = V::Set(1.0f);  // erf of more rounds to 1
  const auto c = V::Max(V::Set(-3.92f), V::Min(limit, x));
  const auto s = c * c;
  auto p = V::Fma(V::Set(2.0500331e-6f), s, V::Set(2.8487516e-4f));
  p = V::Fma(p, s, V::Set(3.7655151e-3f));
  p = V::Fma(p, s, V::Set(5.2748408e-2f));
  p = V::Fma(p, s, V::Set(1.9040482e-1f));
  p = V::Fma(p, s, V::Set(1.1283791f));
  auto q = V::Fma(V::Set(3.8090755e-5f), s, V::Set(1.1625006e-3f));
  q = V::Fma(q, s, V::Set(1.4969022e-2f));
  q = V::Fma(q, s, V::Set(1.1410834e-1f));
  q = V::Fma(q, s, V::Set(5.0207460e-1f));
  q = V::Fma(q, s, one);
  return V::Max(V::Set(-1.0f), V::Min(one, c * p / q));
}

}  // namespace ingot::simd
