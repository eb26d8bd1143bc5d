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

// Writes element (row, column) of Y, which exist.
INGOT_PTX void Finish(const Problem& p, int row, int column, float sum) {
  if (p.bias != nullptr) sum += p.bias[column];
  sum = Activate(p.activation, sum);
  const int64_t at = static_cast<int64_t>(row) * p.columns + column;
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

}  // namespace ingot::cuda::quantized_matmul
