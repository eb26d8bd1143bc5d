#include "cuda/matmul/launches.h"

namespace ingot {

const ProductKernels& HalfProducts() {
  using Math = device::HalfMath;
  static constexpr ProductKernels kKernels = {
      2, 1024, 2048, 80, StartMma16<Math>, StartMatvec<Math>, StartWgmma16<Math>};
  return kKernels;
}

}  // namespace ingot
