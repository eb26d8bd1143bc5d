#include "cuda/matmul/launches.h"

namespace ingot {

const ProductKernels& Tf32Products() {
  using Math = device::Tf32Math;
  static constexpr ProductKernels kKernels = {4, 512, 0, 80, StartMmaRows<Math>, StartMatvec<Math>, nullptr};
  return kKernels;
}

}  // namespace ingot
