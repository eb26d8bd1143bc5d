#include "cpu/unique/unique.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "types.h"

namespace ingot {
namespace {

// The items that are compared: n slices of outer × inner elements.
template <typename T>
struct Items {
  const T* data;
  int64_t outer;
  int64_t count;
  int64_t inner;

  const T& At(int64_t item, int64_t element) const {
    return data[(element / inner * count + item) * inner + element % inner];
  }

  // Negative, zero or positive, as item a comes before, equals or comes after item b.
  int Compare(int64_t a, int64_t b) const {
    for (int64_t i = 0; i < outer * inner; ++i) {
      if (OrderedBefore(At(a, i), At(b, i))) return -1;
      if (OrderedBefore(At(b, i), At(a, i))) return 1;
    }
    return 0;
  }
};

template <typename T>
void FindUnique(KernelContext& context, const Items<T>& items, std::vector<int64_t> shape, size_t axis, bool sorted) {
  const auto n = static_cast<size_t>(items.count);
  const auto order = context.Scratch<int64_t>(n);  // items, equal ones next to one another, the first of them first
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const int compared = items.Compare(a, b);
    return compared != 0 ? compared < 0 : a < b;
  });
  const auto starts = context.Scratch<int64_t>(n + 1);  // where each group of equal items starts in `order`
  size_t groups = 0;
  for (size_t i = 0; i < n; ++i) {
    if (i == 0 || items.Compare(order[i - 1], order[i]) != 0) starts[groups++] = static_cast<int64_t>(i);
  }
  starts[groups] = items.count;
  const auto ranked = context.Scratch<int64_t>(groups);  // groups in the order of the output
  std::iota(ranked.begin(), ranked.end(), 0);
  const auto first = [&](int64_t group) { return order[static_cast<size_t>(starts[static_cast<size_t>(group)])]; };
  if (!sorted) std::sort(ranked.begin(), ranked.end(), [&](int64_t a, int64_t b) { return first(a) < first(b); });

  const auto m = static_cast<int64_t>(groups);
  shape[axis] = m;
  T* values = Data<T>(context.AllocateOutput(0, shape));
  for (int64_t o = 0; o < items.outer; ++o) {
    for (int64_t g = 0; g < m; ++g) {
      const T* from = items.data + (o * items.count + first(ranked[static_cast<size_t>(g)])) * items.inner;
      std::copy_n(from, items.inner, values + (o * m + g) * items.inner);
    }
  }
  const int64_t per_group[] = {m};
  const int64_t per_item[] = {items.count};
  const auto output = [&](size_t index, std::span<const int64_t> extents) {
    return context.output_count() > index ? Data<int64_t>(context.AllocateOutput(index, extents)) : nullptr;
  };
  int64_t* indices = output(1, per_group);
  int64_t* inverse = output(2, per_item);
  int64_t* counts = output(3, per_group);
  for (int64_t g = 0; g < m; ++g) {
    const auto group = static_cast<size_t>(ranked[static_cast<size_t>(g)]);
    if (indices != nullptr) indices[g] = first(ranked[static_cast<size_t>(g)]);
    if (counts != nullptr) counts[g] = starts[group + 1] - starts[group];
    for (int64_t i = starts[group]; inverse != nullptr && i < starts[group + 1]; ++i)
      inverse[order[static_cast<size_t>(i)]] = g;
  }
}

}  // namespace

void Unique(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const int64_t axis = context.ints()[0];
  const bool flat = axis == -1;
  if (!flat && (axis < 0 || axis >= input.ndim)) FailKernel("there is no axis ", axis, " in ", ShapeText(input));
  const auto shape = ShapeOf(input);
  const auto split = static_cast<size_t>(flat ? 0 : axis);
  DispatchNumber("unique", input, [&](auto zero) {
    using T = decltype(zero);
    const T* data = Data<const T>(input);
    const bool sorted = context.ints()[1] != 0;
    if (flat) {
      FindUnique(context, Items<T>{data, 1, ElementCount(input), 1}, {0}, 0, sorted);
    } else {
      FindUnique(context,
                 Items<T>{data, ElementCount(shape.first(split)), shape[split], ElementCount(shape.subspan(split + 1))},
                 {shape.begin(), shape.end()}, split, sorted);
    }
  });
}

}  // namespace ingot
