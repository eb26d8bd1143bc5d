#include "registry.h"

#include <algorithm>
#include <array>

#include "attention_prefill/attention_prefill.h"

namespace ingot {
namespace {

// One row for each kernel, sorted by name, behind an #include of its header:
// {name, function, {least, most} inputs, {least, most} outputs, dims, ints, floats, contract}.
constexpr auto kKernels = std::to_array<CudaKernel>({
    {"attention_prefill",
     cuda::AttentionPrefill,
     {{3, 11}, {1, 1}, 0, 8, 2},
     "attention, by the kernel of many queries or not at all; ints: attention's, and optionally a variant"},
});

static_assert(std::ranges::all_of(kKernels, [](const CudaKernel& kernel) {
  return kernel.arity.inputs.most <= kMostTensors && kernel.arity.outputs.most <= kMostTensors &&
         kernel.arity.dims <= kMostTensors;
}));

}  // namespace

std::span<const CudaKernel> CudaKernels() { return kKernels; }

const CudaKernel* FindCudaKernel(std::string_view name) {
  const auto found = std::ranges::find(kKernels, name, &CudaKernel::name);
  return found == kKernels.end() ? nullptr : &*found;
}

}  // namespace ingot
