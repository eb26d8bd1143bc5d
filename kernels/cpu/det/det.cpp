#include "cpu/det/det.h"

#include <algorithm>

#include "types.h"

namespace ingot {
namespace {

constexpr int64_t kMostParts = 64;  // parts that the matrices are split into, each with a buffer of its own

double Eliminate(double* a, int64_t n) {
  double result = 1;
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i)
      if (std::abs(a[i * n + k]) > std::abs(a[pivot * n + k])) pivot = i;
    if (pivot != k) {
      std::swap_ranges(a + k * n, a + (k + 1) * n, a + pivot * n);
      result = -result;
    }
    const double diagonal = a[k * n + k];
    result *= diagonal;
    if (diagonal == 0) return 0;
    for (int64_t i = k + 1; i < n; ++i) {
      const double factor = a[i * n + k] / diagonal;
      for (int64_t j = k + 1; j < n; ++j) a[i * n + j] -= factor * a[k * n + j];
    }
  }
  return result;
}

template <typename T>
void Determinants(KernelContext& context, const DLTensor& input, const DLTensor& output) {
  const int64_t n = input.shape[input.ndim - 1];
  const int64_t count = ElementCount(output);
  const int64_t parts = std::min(count, kMostParts);
  const auto buffers = context.Scratch<double>(static_cast<size_t>(parts * n * n));
  context.ParallelFor(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      double* a = buffers.data() + part * n * n;
      for (int64_t m = count * part / parts; m < count * (part + 1) / parts; ++m) {
        const T* from = Data<const T>(input) + m * n * n;
        for (int64_t i = 0; i < n * n; ++i) a[i] = static_cast<double>(Widen(from[i]));
        Data<T>(output)[m] = static_cast<T>(static_cast<Computed<T>>(Eliminate(a, n)));
      }
    }
  });
}

}  // namespace

void Det(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const DLTensor& output = context.Output(0);
  const auto shape = ShapeOf(input);
  const bool fits = shape.size() >= 2 && shape[shape.size() - 1] == shape[shape.size() - 2] &&
                    std::ranges::equal(shape.first(shape.size() - 2), ShapeOf(output)) && output.dtype == input.dtype;
  if (!fits) FailKernel("determinants of ", ShapeText(input), " cannot have shape ", ShapeText(output));
  if (ElementCount(output) == 0) return;
  if (input.dtype.code != kDLFloat && input.dtype.code != kDLBfloat)
    FailKernel("det does not take ", DTypeText(input.dtype));
  DispatchNumber("det", input, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<Computed<T>>) Determinants<T>(context, input, output);
  });
}

}  // namespace ingot
