#include "cuda/matmul/launches.h"

namespace ingot {

const ProductKernels& Float32Products() {
  using Math = device::Float32Math;
  static constexpr ProductKernels kKernels = {4, 160, 0, 80, StartMmaRows<Math>, StartMatvec<Math>, nullptr};
  return kKernels;
}

}  // namespace ingot
