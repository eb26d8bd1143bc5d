#include "cpu/scatter_elements/scatter_elements.h"

#include <algorithm>
#include <cstring>

#include "indices.h"
#include "reduction.h"

namespace ingot {

void ScatterElements(KernelContext& context) {
  const DLTensor& data = context.Input(0);
  const DLTensor& positions = context.Input(1);
  const DLTensor& updates = context.Input(2);
  const Indices indices(positions);
  const int64_t axis = context.ints()[0];
  if (axis < 0 || axis >= data.ndim) FailKernel("there is no axis ", axis, " in ", ShapeText(data));
  bool fits = positions.ndim == data.ndim && std::ranges::equal(ShapeOf(positions), ShapeOf(updates)) &&
              updates.dtype == data.dtype;
  for (int32_t i = 0; fits && i < data.ndim; ++i) fits = i == axis || positions.shape[i] <= data.shape[i];
  if (!fits) {
    FailKernel("indices ", ShapeText(positions), " and updates ", ShapeText(updates), " of ", DTypeText(updates.dtype),
               " do not fit data ", ShapeText(data), " of ", DTypeText(data.dtype));
  }
  const DLTensor& output = context.AllocateOutput(0, ShapeOf(data));
  std::memcpy(output.data, Data<const std::byte>(data), static_cast<size_t>(ElementCount(data)) * ElementBytes(data));
  if (ElementCount(positions) == 0) return;

  // Updates that differ off the axis never meet: they are divided among threads, and those along it stay in order.
  const auto after = static_cast<size_t>(axis) + 1;
  const int64_t data_stride = ElementCount(ShapeOf(data).subspan(after));
  const int64_t stride = ElementCount(ShapeOf(positions).subspan(after));
  const int64_t extent = data.shape[axis];
  const int64_t length = positions.shape[axis];
  const int64_t lines = ElementCount(positions) / length;
  DispatchReduction("scatter_elements", data, ReadReduction(context.ints()[1]), [&](auto combine, auto zero) {
    using T = decltype(zero);
    T* to = Data<T>(output);
    const T* from = Data<const T>(updates);
    constexpr int64_t kGrain = 1 << 12;
    context.ParallelFor(lines, 1 + kGrain / length, [&](int64_t begin, int64_t end) {
      for (int64_t line = begin; line < end; ++line) {
        int64_t target = 0;  // of the line's index 0, in data
        int64_t scale = 1;
        int64_t rest = line;
        for (int32_t i = data.ndim - 1; i >= 0; --i) {
          if (i != axis) {
            target += rest % positions.shape[i] * scale;
            rest /= positions.shape[i];
          }
          scale *= data.shape[i];
        }
        const int64_t first = line / stride * stride * length + line % stride;
        for (int64_t j = 0; j < length; ++j) {
          const int64_t source = first + j * stride;
          T& element = to[target + indices.Wrapped(source, extent) * data_stride];
          element = combine(element, from[source]);
        }
      }
    });
  });
}

}  // namespace ingot
