// What tensor_scatter asks of its tensors on every device.
#pragma once

#include "kernel.h"

namespace ingot::tensor_scatter {

// Shapes and types that fit; what the starts are is for the kernel.
inline void Check(const DLTensor& cache, const DLTensor& update, const DLTensor* first, int64_t axis) {
  const auto shape = ShapeOf(cache);
  const auto given = ShapeOf(update);
  bool fits = axis >= 1 && axis < cache.ndim && shape.size() == given.size();
  for (int64_t i = 0; fits && i < cache.ndim; ++i)
    fits = i == axis || shape[static_cast<size_t>(i)] == given[static_cast<size_t>(i)];
  if (!fits)
    FailKernel("an update of ", ShapeText(update), " cannot be written into a cache of ", ShapeText(cache), " on axis ",
               axis);
  if (first != nullptr && (first->ndim != 1 || first->shape[0] != shape[0]))
    FailKernel("there are starts of shape ", ShapeText(*first), " for ", shape[0], " batches");
  const bool narrow = cache.dtype.bits == 16 && (cache.dtype.code == kDLFloat || cache.dtype.code == kDLBfloat);
  if (cache.dtype != update.dtype && !(narrow && update.dtype.code == kDLFloat && update.dtype.bits == 32))
    FailKernel("a cache of ", DTypeText(cache.dtype), " does not take an update of ", DTypeText(update.dtype));
}

}  // namespace ingot::tensor_scatter
