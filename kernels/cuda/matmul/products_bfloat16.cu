#include "cuda/matmul/launches.h"

namespace ingot {

const ProductKernels& BFloat16Products() {
  using Math = device::BFloat16Math;
  static constexpr ProductKernels kKernels = {
      2, 1024, 2048, 80, StartMma16<Math>, StartMatvec<Math>, StartWgmma16<Math>};
  return kKernels;
}

}  // namespace ingot
