// X in integers: rows are rounded, and laid out in tiles as the products read them.
//
// Written over two vocabularies. `L` (lanes) is vectors of floats V and of as many 32-bit integers, Int:
//   ToFloat, Round          of integers; of floats, to the nearest, ties to even
//   AddInts, LoadInts       32-bit integers
//   Nibble(v, n), Byte(v, n) the unsigned nibble or the signed byte n of each lane, as floats
//   LookUp(table, v, n)     table[nibble n of each lane], of 16 floats
//   Store8(to, ints)        8 / kLanes vectors of small integers as int8 or int16; for L of up to 8 lanes
//   kVectors, kTileRows     vectors of a panel, and rows of a tile of floats
// `E` (engine, integer.h) is products in integers.
#pragma once

#include "cpu/quantized_matmul/problem.h"
#include "simd/math.h"

namespace ingot::quantized_matmul {

INGOT_INLINE int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

// The groups that so many k have, from the start of one on or within one.
INGOT_INLINE int64_t GroupsIn(const Problem& problem, int64_t depth) {
  return (depth + problem.group - 1) / problem.group;
}

// Calls body(T*) with a null pointer of the C++ type of an element of X or Y, or of a scale.
template <typename Body>
INGOT_INLINE void WithType(Element element, Body&& body) {
  switch (element) {
    case Element::kHalf:
      return body(static_cast<Half*>(nullptr));
    case Element::kBfloat:
      return body(static_cast<Bfloat16*>(nullptr));
    default:
      return body(static_cast<float*>(nullptr));
  }
}

// Numbers as floats.
template <typename V, typename T>
INGOT_INLINE void Widen(const T* from, float* to, int64_t count) {
  int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::Store(to + i, V::Load(from + i));
  if (i < count) V::StoreFirst(to + i, count - i, V::LoadFirst(from + i, count - i));
}

// A row of X, or a part of it, as floats.
template <typename V>
INGOT_INLINE void WidenRow(const Problem& problem, int64_t row, int64_t first, int64_t count, float* to) {
  WithType(problem.type, [&]<typename T>(T*) __attribute__((always_inline)) {
    Widen<V>(reinterpret_cast<const T*>(problem.x) + row * problem.depth + first, to, count);
  });
}

// The scale of k that share one, and the factors that bring them to [-127, 127]. There are two factors, because 127 /
// max overflows where max is very small; where it is 0, or where numbers are not finite, they are 0.
struct Rounding {
  float scale;
  float first, second;
  bool finite;
};

template <typename V>
INGOT_INLINE Rounding FindRounding(const float* x, int64_t count) {
  auto most = V::Set(0), poison = V::Set(0);
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const auto value = V::Load(x + i);
    most = V::Max(V::Abs(value), most);
    poison = V::Fma(value, V::Set(0), poison);  // NaN of infinities and NaN, else 0
  }
  const float max = V::ReduceMax(most), nan = V::ReduceAdd(poison);
  if (nan != 0) return {nan, 0, 0, false};
  const float first = max < 1e-30f ? 0x1p100f : 1.0f;
  return {max / 127, first, max > 0 ? 127 / (max * first) : 0, true};
}

// Rounds a row of steps * kStep floats. The vectors of a tile of `rows` rows lie `rows` apart.
template <typename L, typename E>
INGOT_INLINE void QuantizeRow(const Problem& problem, const float* x, int64_t rows, typename E::Operand* to,
                              float* scales, int32_t* starts, float* sums) {
  using V = typename L::V;
  constexpr int kParts = kStep / V::kLanes;
  static constexpr float kZeros[kStep] = {};
  const int64_t depth = problem.steps * kStep;
  for (int64_t group = 0; group < depth; group += problem.x_group) {
    const int64_t end = Least(group + problem.x_group, depth);
    const Rounding rounding = FindRounding<V>(x + group, end - group);
    for (int64_t run = group; run < end; run += problem.run) {
      typename L::Int total = L::Round(V::Set(0));
      for (int64_t k = run; k < Least(run + problem.run, end); k += kStep) {
        const float* from = rounding.finite ? x + k : kZeros;
        typename L::Int ints[kParts];
#pragma GCC unroll 2
        for (int part = 0; part < kParts; ++part) {
          const auto value = V::Load(from + part * V::kLanes) * V::Set(rounding.first) * V::Set(rounding.second);
          ints[part] = L::Round(value);
          total = L::AddInts(total, ints[part]);
        }
        L::Store8(to, ints);
        to += rows * kStep;
      }
      const float sum = V::ReduceAdd(L::ToFloat(total));  // exact: of kChunk numbers of up to 127
      *scales = rounding.scale * problem.table_unit;
      *starts = -E::kOffset * static_cast<int32_t>(sum);
      *sums = sum;
      scales += rows;
      starts += rows;
      sums += rows;
    }
  }
}

template <typename L, typename E>
INGOT_INLINE void QuantizeTile(const Problem& problem, const Scratch& scratch, int64_t first, int64_t rows,
                               int64_t tile) {
  using Operand = typename E::Operand;
  const int64_t depth = problem.steps * kStep;
  const int64_t runs = (depth + problem.run - 1) / problem.run;
  const int64_t base = first - scratch.base_row;
  for (int64_t r = 0; r < tile; ++r) {
    if (r < rows) WidenRow<typename L::V>(problem, first + r, 0, problem.depth, scratch.staging);
    const int64_t begin = r < rows ? problem.depth : 0;
    for (int64_t i = begin; i < depth; ++i) scratch.staging[i] = 0;
    QuantizeRow<L, E>(problem, scratch.staging, tile,
                      static_cast<Operand*>(scratch.rows.values) + (base * problem.steps + r) * kStep,
                      scratch.rows.scales + base * runs + r, scratch.rows.starts + base * runs + r,
                      scratch.rows.sums + base * runs + r);
  }
}

}  // namespace ingot::quantized_matmul
