// What the poolings of regions share.
#pragma once

#include "types.h"

namespace ingot::roi {

// Extents of the features and of the result.
struct Sizes {
  int64_t batch, channels, height, width, regions, rows, columns;
};

inline Sizes Check(const DLTensor& features, const DLTensor& regions, int64_t fields, const DLTensor& pooled) {
  const bool fits = features.ndim == 4 && regions.ndim == 2 && pooled.ndim == 4 && regions.shape[1] == fields &&
                    pooled.shape[0] == regions.shape[0] && pooled.shape[1] == features.shape[1] &&
                    regions.dtype == features.dtype && pooled.dtype == features.dtype;
  if (!fits)
    FailKernel("regions ", ShapeText(regions), " of features ", ShapeText(features), " cannot be pooled to ",
               ShapeText(pooled));
  return {features.shape[0], features.shape[1], features.shape[2], features.shape[3],
          regions.shape[0],  pooled.shape[2],   pooled.shape[3]};
}

inline int64_t BatchIndex(double index, int64_t batch) {
  if (!(index >= 0 && index < static_cast<double>(batch)))
    FailKernel("batch index ", index, " is out of range for a batch of ", batch);
  return static_cast<int64_t>(index);
}

template <typename Body>
void DispatchFloat(const char* kernel, const DLTensor& tensor, Body&& body) {
  if (tensor.dtype.code != kDLFloat && tensor.dtype.code != kDLBfloat)
    FailKernel(std::string_view(kernel), " does not take ", DTypeText(tensor.dtype));
  DispatchNumber(kernel, tensor, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<Computed<T>>) body(zero);
  });
}

}  // namespace ingot::roi
