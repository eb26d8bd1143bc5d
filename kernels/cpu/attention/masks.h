// What a mask does to blocks of keys and rows: where it hides all they are not multiplied, where it adds nothing it is
// not added. Masks that are written out mostly say what a causal prompt, a window or padding is.
#pragma once

#include <cstring>

#include "cpu/attention/keys.h"

namespace ingot::attention {

constexpr float kMinusInfinity = -__builtin_inff();

// Whether what `of` makes of `count` numbers, at least V::kLanes, is at most a limit; a NaN is not.
template <typename V, typename T, typename Of>
INGOT_INLINE bool AreUpTo(const T* numbers, int64_t count, float limit, Of&& of) {
  auto above = V::Set(0);
  const auto compare = [&](int64_t i) __attribute__((always_inline)) {
    above = V::Max(above, V::Select(of(V::Load(numbers + i)), V::Set(limit), V::Set(0), V::Set(1)));
  };
  int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) compare(i);
  if (i < count) compare(count - V::kLanes);
  return V::ReduceMax(above) == 0;
}

// Whether all of `count` bytes are one value.
INGOT_INLINE bool AreAll(uint8_t value, const uint8_t* bytes, int64_t count) {
  const uint64_t eight = value * 0x0101010101010101u;
  uint64_t other = 0;
  int64_t i = 0;
  for (uint64_t found; i + 8 <= count; i += 8) {
    std::memcpy(&found, bytes + i, sizeof(found));
    other |= found ^ eight;
  }
  for (; i < count; ++i) other |= bytes[i] ^ value;
  return other == 0;
}

// Calls body(row, elements) for each of `rows` rows with its elements of a mask from a key on, as long as it returns
// true; whether it always did. Keys must lie side by side.
template <typename Body>
INGOT_INLINE bool OfAllRows(const Problem& problem, const Unit& unit, int64_t first_row, int64_t rows, int64_t key,
                            Body&& body) {
  const Mask& mask = problem.mask;
  for (int64_t row = first_row; row < first_row + rows; ++row) {
    const int64_t at =
        unit.batch * mask.batch + HeadOf(problem, unit, row) * mask.head + QueryOf(problem, row) * mask.query + key;
    bool going = false;
    switch (mask.element) {
      case Element::kBool:
        going = body(row, static_cast<const uint8_t*>(mask.data) + at);
        break;
      case Element::kHalf:
        going = body(row, static_cast<const Half*>(mask.data) + at);
        break;
      case Element::kBfloat:
        going = body(row, static_cast<const Bfloat16*>(mask.data) + at);
        break;
      default:
        going = body(row, static_cast<const float*>(mask.data) + at);
    }
    if (!going) return false;
  }
  return true;
}

// Whether the mask alone makes keys count for nothing in `rows` rows of a unit. Of a row that has seen a key, those
// whose mask is about the least float do too: their weights are e^-10^38.
template <typename V>
INGOT_INLINE bool AreMaskedOut(const Problem& problem, const Unit& unit, const Scratch& scratch, int64_t first_row,
                               int64_t rows, Range keys) {
  const Mask& mask = problem.mask;
  const int64_t count = keys.end - keys.begin;
  if (mask.data == nullptr || mask.key != 1 || count < V::kLanes) return false;
  constexpr float kSeen = -1e37f, kLeast = -1e38f;
  return OfAllRows(problem, unit, first_row, rows, keys.begin, [&]<typename T>(int64_t row, const T* from) {
    if constexpr (sizeof(T) == 1) {
      return AreAll(0, from, count);
    } else {
      const float limit = scratch.max[row - unit.first_row] > kSeen ? kLeast : kMinusInfinity;
      return AreUpTo<V>(from, count, limit, [](auto x) __attribute__((always_inline)) { return x; });
    }
  });
}

// Whether there is no mask, or it lets `rows` rows see these keys and adds 0.
template <typename V>
INGOT_INLINE bool AddsNothing(const Problem& problem, const Unit& unit, int64_t first_row, int64_t rows, Range keys) {
  const Mask& mask = problem.mask;
  const int64_t count = keys.end - keys.begin;
  if (mask.data == nullptr) return true;
  if (mask.key != 1 || count < V::kLanes) return false;
  return OfAllRows(problem, unit, first_row, rows, keys.begin, [&]<typename T>(int64_t, const T* from) {
    if constexpr (sizeof(T) == 1) {
      return AreAll(1, from, count);
    } else {
      return AreUpTo<V>(from, count, 0, [](auto x) __attribute__((always_inline)) { return V::Abs(x); });
    }
  });
}

}  // namespace ingot::attention
