#include "cuda/registry.h"

#include <algorithm>
#include <array>

#include "checks.h"

namespace ingot {
namespace {

constexpr std::array kKernels = {
    CudaKernel{"check_bands", CheckBands, {{0, 0}, {1, 1}, 0, 3, 0}, "checks.h"},
    CudaKernel{"check_barriers", CheckBarriers, {{1, 1}, {1, 1}, 0, 0, 0}, "checks.h"},
    CudaKernel{"check_failures", CheckFailures, {{1, 1}, {1, 1}, 0, 1, 0}, "checks.h"},
    CudaKernel{"check_load_matrix", CheckLoadMatrix, {{1, 1}, {1, 1}, 0, 0, 0}, "checks.h"},
    CudaKernel{"check_mma", CheckMma, {{2, 2}, {1, 1}, 0, 0, 0}, "checks.h"},
    CudaKernel{"check_store_matrix", CheckStoreMatrix, {{1, 1}, {1, 1}, 0, 0, 0}, "checks.h"},
    CudaKernel{"check_tensor_map", CheckTensorMap, {{1, 1}, {2, 2}, 13, 0, 0}, "checks.h"},
    CudaKernel{"check_wgmma", CheckWgmma, {{2, 2}, {1, 1}, 0, 4, 0}, "checks.h"},
};

}  // namespace

std::span<const CudaKernel> CudaKernels() { return kKernels; }

const CudaKernel* FindCudaKernel(std::string_view name) {
  const auto found = std::ranges::find(kKernels, name, &CudaKernel::name);
  return found == kKernels.end() ? nullptr : &*found;
}

}  // namespace ingot
