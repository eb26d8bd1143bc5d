// Tensors of indices: int64 or int32, negative ones counted from the end.
#pragma once

#include "fault.h"
#include "kernel.h"

namespace ingot {

class Indices {
 public:
  explicit Indices(const DLTensor& tensor) : data_(Data<const std::byte>(tensor)), wide_(tensor.dtype.bits == 64) {
    if (tensor.dtype.code != kDLInt || (tensor.dtype.bits != 64 && tensor.dtype.bits != 32)) {
      FailKernel("indices are int64 or int32, not ", DTypeText(tensor.dtype));
    }
  }

  int64_t operator[](int64_t i) const {
    return wide_ ? reinterpret_cast<const int64_t*>(data_)[i] : reinterpret_cast<const int32_t*>(data_)[i];
  }

  // Index i into an axis of `extent`, made non-negative; an error if it is out of range.
  int64_t Wrapped(int64_t i, int64_t extent) const {
    const int64_t index = (*this)[i];
    if (index < -extent || index >= extent) FailKernel(FaultText({FaultKind::kIndex, {index, extent}}));
    return index < 0 ? index + extent : index;
  }

 private:
  const std::byte* data_;
  bool wide_;
};

}  // namespace ingot
