// What happens to finished sums: bias, activation, residual.
#pragma once

#include "cuda/quantized_matmul/dequantize.h"

namespace ingot::cuda::quantized_matmul {

INGOT_PTX float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kRelu:
      return x < 0 ? 0.0f : x;  // NaN stays
    case Activation::kGelu:
      return 0.5f * x * (1 + erff(x * 0.70710678f));
    case Activation::kGeluTanh:  // sqrt(2 / pi) (x + 0.044715 x^3)
      return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu:
      return x / (1 + expf(-x));
    default:
      return x;
  }
}

// Writes element (row, column) of Y, which exist, from what is to be added to the residual.
INGOT_PTX void Write(const Problem& p, int row, int column, float sum) {
  const int64_t at = static_cast<int64_t>(row) * p.y_columns + column;
  if (p.residual != nullptr) sum += ReadNumber(static_cast<const uint8_t*>(p.residual), p.y_type, at);
  switch (p.y_type) {
    case Element::kHalf:
      static_cast<__half*>(p.y)[at] = __float2half_rn(sum);
      break;
    case Element::kBfloat:
      static_cast<__nv_bfloat16*>(p.y)[at] = __float2bfloat16_rn(sum);
      break;
    default:
      static_cast<float*>(p.y)[at] = sum;
  }
}

INGOT_PTX float WithBias(const Problem& p, int column, float sum) {
  return p.bias != nullptr ? sum + p.bias[column] : sum;
}

// What the sum of a column becomes, with that of the column that it is the gate of, if it is one.
template <typename Other>
INGOT_PTX float Finished(const Problem& p, int column, float sum, const Other& other) {
  const float v = Activate(p.activation, WithBias(p, column, sum));
  return p.gated ? v * WithBias(p, column + kEight, other()) : v;
}

// Where what comes of a column of W stands in Y; nothing comes of those that have gates but with these.
INGOT_PTX bool IsWritten(const Problem& p, int column) { return !p.gated || (column & kEight) == 0; }
INGOT_PTX int ColumnOfY(const Problem& p, int column) {
  return p.gated ? column / kPanel * kEight + column % kEight : column;
}

// Writes what comes of a column of W, which exists, in a row. sum_of(i): the sum of the column i further.
template <typename SumOf>
INGOT_PTX void Finish(const Problem& p, int row, int column, const SumOf& sum_of) {
  if (!IsWritten(p, column)) return;
  Write(p, row, ColumnOfY(p, column), Finished(p, column, sum_of(0), [&] { return sum_of(kEight); }));
}

// Whether eight columns, from a multiple of eight on, are all there and aligned, and only bias and residual follow, or
// gates.
INGOT_PTX bool CanFinishEight(const Problem& p) {
  const uintptr_t addresses =
      reinterpret_cast<uintptr_t>(p.y) | reinterpret_cast<uintptr_t>(p.bias) | reinterpret_cast<uintptr_t>(p.residual);
  return (p.gated || p.activation == Activation::kNone) && p.columns % kEight == 0 && addresses % 16 == 0;
}

INGOT_PTX void AddFloats(float (&v)[kEight], const float* from) {
  const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
  v[0] += low.x, v[1] += low.y, v[2] += low.z, v[3] += low.w;
  v[4] += high.x, v[5] += high.y, v[6] += high.z, v[7] += high.w;
}

template <typename T>
INGOT_PTX void FinishHalves(const Problem& p, int64_t at, float (&v)[kEight]) {
  if (p.residual != nullptr) {
    const uint4 from = *reinterpret_cast<const uint4*>(static_cast<const T*>(p.residual) + at);
    const uint32_t pairs[] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] += Pairs<T>::Low(pairs[i]);
      v[2 * i + 1] += Pairs<T>::High(pairs[i]);
    }
  }
  *reinterpret_cast<uint4*>(static_cast<T*>(p.y) + at) = make_uint4(
      Pairs<T>::Pack(v[0], v[1]), Pairs<T>::Pack(v[2], v[3]), Pairs<T>::Pack(v[4], v[5]), Pairs<T>::Pack(v[6], v[7]));
}

// Writes the eight elements of a row of Y from `column` on, where CanFinishEight(p).
INGOT_PTX void WriteEight(const Problem& p, int row, int column, float (&v)[kEight]) {
  const int64_t at = static_cast<int64_t>(row) * p.y_columns + column;
  if (p.y_type == Element::kHalf) {
    FinishHalves<__half>(p, at, v);
  } else if (p.y_type == Element::kBfloat) {
    FinishHalves<__nv_bfloat16>(p, at, v);
  } else {
    if (p.residual != nullptr) AddFloats(v, static_cast<const float*>(p.residual) + at);
    float4* const to = reinterpret_cast<float4*>(static_cast<float*>(p.y) + at);
    to[0] = make_float4(v[0], v[1], v[2], v[3]);
    to[1] = make_float4(v[4], v[5], v[6], v[7]);
  }
}

// Writes what comes of the columns of W from `column` on, a multiple of eight, as far as there are columns: eight at
// most. `sums`, which has all of their panel and may be changed, is aligned to 16 bytes; vectors: CanFinishEight(p).
INGOT_PTX void FinishUpToEight(const Problem& p, bool vectors, int row, int column, float* sums) {
  const int count = min(kEight, p.columns - column);
  if (count <= 0 || !IsWritten(p, column)) return;
  const bool finished = p.gated || !vectors;
#pragma unroll 1
  for (int i = 0; finished && i < count; ++i) {  // one loop: code of activations takes registers
    const float v = Finished(p, column + i, sums[i], [&] { return sums[i + kEight]; });
    if (vectors) {
      sums[i] = v;
    } else {
      Write(p, row, ColumnOfY(p, column) + i, v);
    }
  }
  if (!vectors) return;
  float v[kEight] = {};
  AddFloats(v, sums);
  if (p.bias != nullptr && !finished) AddFloats(v, p.bias + column);
  WriteEight(p, row, ColumnOfY(p, column), v);
}

}  // namespace ingot::cuda::quantized_matmul
