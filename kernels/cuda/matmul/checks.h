// What host functions of products and convolutions have in common: checks of their tensors, and the epilogue.
#pragma once

#include <limits>
#include <string_view>

#include "cuda/kernel.h"
#include "cuda/matmul/epilogue.h"

namespace ingot {

inline bool IsType(const DLTensor& tensor, DLDataTypeCode code, int bits) {
  return tensor.dtype.code == code && tensor.dtype.bits == bits && tensor.dtype.lanes == 1;
}

// float32, float16 or bfloat16.
inline Number NumberOf(std::string_view kernel, std::string_view name, const DLTensor& tensor) {
  if (IsType(tensor, kDLFloat, 32)) return Number::kFloat32;
  if (IsType(tensor, kDLFloat, 16)) return Number::kFloat16;
  if (IsType(tensor, kDLBfloat, 16)) return Number::kBFloat16;
  FailKernel(kernel, " takes ", name, " of float32, float16 or bfloat16, not ", DTypeText(tensor.dtype));
}

inline int BytesOf(Number number) { return number == Number::kFloat32 ? 4 : 2; }

inline int CheckedInt(std::string_view kernel, std::string_view name, int64_t value) {
  if (value < 0 || value > std::numeric_limits<int>::max())
    FailKernel(kernel, ": ", name, " is ", value, ", which is too much");
  return static_cast<int>(value);
}

inline bool IsAligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Tells the epilogue of Y, whose last axis has `columns` elements, of bias and residual, which may be left out. `clamp`
// is empty, or the two numbers of Activation::kClamp. Steps and scales are set before.
inline void DescribeResult(std::string_view kernel, const DLTensor& y, const DLTensor* bias, const DLTensor* residual,
                           int64_t columns, int64_t activation, std::span<const double> clamp, Epilogue& e) {
  e.number = e.residual_number = NumberOf(kernel, "Y", y);
  e.y = Data<void>(y);
  const Activation last = clamp.empty() ? Activation::kSilu : Activation::kClamp;
  if (activation < 0 || activation > static_cast<int64_t>(last)) {
    FailKernel(kernel, " has no activation ", activation);
  }
  e.activation = static_cast<Activation>(activation);
  if (!clamp.empty()) {
    e.least = static_cast<float>(clamp[0]);
    e.most = static_cast<float>(clamp[1]);
  }
  if (bias != nullptr) {
    if (bias->ndim != 1 || bias->shape[0] != columns) {
      FailKernel(kernel, ": bias is ", ShapeText(*bias), ", not [", columns, "]");
    }
    e.bias_number = NumberOf(kernel, "bias", *bias);
    e.bias = Data<const void>(*bias);
  }
  if (residual != nullptr) {
    if (!std::ranges::equal(ShapeOf(*residual), ShapeOf(y)) || !(residual->dtype == y.dtype)) {
      FailKernel(kernel, ": the residual is ", DTypeText(residual->dtype), " ", ShapeText(*residual), ", but Y is ",
                 DTypeText(y.dtype), " ", ShapeText(y));
    }
    e.residual = Data<const void>(*residual);
  }
  const int64_t piece = 16 / BytesOf(e.number);
  e.vectors = e.pitch % piece == 0 && e.matrix % piece == 0 && e.bias_step % 8 == 0 && IsAligned(e.y) &&
              IsAligned(e.residual) && IsAligned(e.bias) && IsAligned(e.column_scales);
  e.plain = e.vectors && e.activation == Activation::kNone && e.bias == nullptr && e.residual == nullptr;
}

}  // namespace ingot
