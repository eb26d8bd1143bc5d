#include "cpu/topk/topk.h"

#include <algorithm>

#include "types.h"

namespace ingot {
namespace {

template <typename T, bool kLargest>
void Select(KernelContext& context, const DLTensor& input, const DLTensor& values, int64_t axis) {
  const auto shape = ShapeOf(input);
  const auto split = static_cast<size_t>(axis);
  const int64_t extent = shape[split];
  const int64_t k = values.shape[axis];
  const int64_t inner = ElementCount(shape.subspan(split + 1));
  const int64_t rows = ElementCount(shape.first(split)) * inner;
  const T* from = Data<const T>(input);
  T* to = Data<T>(values);
  int64_t* indices = context.output_count() > 1 ? Data<int64_t>(context.Output(1)) : nullptr;
  const auto heaps = context.Scratch<int64_t>(static_cast<size_t>(rows * k));

  constexpr int64_t kGrain = 1 << 13;
  context.ParallelFor(rows, 1 + kGrain / std::max<int64_t>(extent, 1), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* line = from + row / inner * extent * inner + row % inner;
      const auto better = [&](int64_t a, int64_t b) {
        const T x = line[a * inner];
        const T y = line[b * inner];
        if (kLargest ? OrderedBefore(y, x) : OrderedBefore(x, y)) return true;
        if (kLargest ? OrderedBefore(x, y) : OrderedBefore(y, x)) return false;
        return a < b;
      };
      // A heap of the best k so far, the worst of them on top.
      int64_t* heap = heaps.data() + row * k;
      for (int64_t i = 0; i < k; ++i) heap[i] = i;
      std::make_heap(heap, heap + k, better);
      for (int64_t i = k; i < extent; ++i) {
        if (!better(i, heap[0])) continue;
        std::pop_heap(heap, heap + k, better);
        heap[k - 1] = i;
        std::push_heap(heap, heap + k, better);
      }
      std::sort_heap(heap, heap + k, better);
      const int64_t first = row / inner * k * inner + row % inner;
      for (int64_t i = 0; i < k; ++i) {
        to[first + i * inner] = line[heap[i] * inner];
        if (indices != nullptr) indices[first + i * inner] = heap[i];
      }
    }
  });
}

}  // namespace

void TopK(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const DLTensor& values = context.Output(0);
  const int64_t axis = context.ints()[0];
  if (axis < 0 || axis >= input.ndim) FailKernel("there is no axis ", axis, " in ", ShapeText(input));
  bool fits = values.ndim == input.ndim && values.dtype == input.dtype;
  for (int32_t i = 0; fits && i < input.ndim; ++i)
    fits = i == axis ? values.shape[i] <= input.shape[i] : values.shape[i] == input.shape[i];
  if (context.output_count() > 1) {
    const DLTensor& indices = context.Output(1);
    fits = fits && DTypeText(indices.dtype) == "int64" && std::ranges::equal(ShapeOf(indices), ShapeOf(values));
  }
  if (!fits)
    FailKernel("the top of ", ShapeText(input), " along axis ", axis, " cannot have shape ", ShapeText(values));
  if (ElementCount(values) == 0) return;
  DispatchNumber("topk", input, [&](auto zero) {
    using T = decltype(zero);
    context.ints()[1] != 0 ? Select<T, true>(context, input, values, axis)
                           : Select<T, false>(context, input, values, axis);
  });
}

}  // namespace ingot
