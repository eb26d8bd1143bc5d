#include "cpu/wrap_indices/wrap_indices.h"

#include "indices.h"

namespace ingot {
namespace {

template <bool kNegative>
void Run(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const Indices indices(input);
  const DLTensor& output = context.AllocateOutput(0, ShapeOf(input));
  if (DTypeText(output.dtype) != "int64") FailKernel("wrapped indices are int64");
  const int64_t extent = context.dims()[0];
  int64_t* wrapped = Data<int64_t>(output);
  constexpr int64_t kGrain = 1 << 14;
  context.ParallelFor(ElementCount(input), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!kNegative && indices[i] < 0) FailKernel("index ", indices[i], " is negative");
      wrapped[i] = indices.Wrapped(i, extent);
    }
  });
}

}  // namespace

void WrapIndices(KernelContext& context) { Run<true>(context); }
void CheckIndices(KernelContext& context) { Run<false>(context); }

}  // namespace ingot
