#include "cpu/scatter_nd/scatter_nd.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "indices.h"
#include "reduction.h"

namespace ingot {
namespace {

// Where the slice of each tuple starts, in elements.
std::span<const int64_t> Offsets(KernelContext& context, const DLTensor& data, const DLTensor& tuples,
                                 int64_t tuple_count, int64_t slice) {
  const Indices indices(tuples);
  const int64_t depth = tuples.shape[tuples.ndim - 1];
  const auto offsets = context.Scratch<int64_t>(static_cast<size_t>(tuple_count));
  for (int64_t t = 0; t < tuple_count; ++t) {
    int64_t position = 0;
    for (int64_t i = 0; i < depth; ++i)
      position = position * data.shape[i] + indices.Wrapped(t * depth + i, data.shape[i]);
    offsets[static_cast<size_t>(t)] = position * slice;
  }
  return offsets;
}

}  // namespace

void ScatterNd(KernelContext& context) {
  const DLTensor& data = context.Input(0);
  const DLTensor& tuples = context.Input(1);
  const DLTensor& updates = context.Input(2);
  const auto shape = ShapeOf(data);
  const auto tuple_shape = ShapeOf(tuples);
  if (tuple_shape.empty() || tuple_shape.back() > data.ndim)
    FailKernel("indices ", ShapeText(tuples), " do not index data ", ShapeText(data));
  const auto slice_shape = shape.subspan(static_cast<size_t>(tuple_shape.back()));
  std::vector<int64_t> expected(tuple_shape.begin(), tuple_shape.end() - 1);
  expected.insert(expected.end(), slice_shape.begin(), slice_shape.end());
  if (!std::ranges::equal(expected, ShapeOf(updates)) || !(updates.dtype == data.dtype)) {
    FailKernel("updates are ", ShapeText(updates), " of ", DTypeText(updates.dtype), ", expected ", ShapeText(expected),
               " of ", DTypeText(data.dtype));
  }
  const DLTensor& output = context.AllocateOutput(0, shape);
  // A core alone does not use all of the memory's bandwidth.
  constexpr int64_t kCopyGrain = 1 << 17;
  const int64_t bytes = ElementCount(data) * static_cast<int64_t>(ElementBytes(data));
  context.ParallelFor(bytes, kCopyGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(Data<std::byte>(output) + begin, Data<const std::byte>(data) + begin, static_cast<size_t>(end - begin));
  });

  const int64_t slice = ElementCount(slice_shape);
  const int64_t tuple_count = ElementCount(tuple_shape.first(tuple_shape.size() - 1));
  const auto offsets = Offsets(context, data, tuples, tuple_count, slice);
  DispatchReduction("scatter_nd", data, ReadReduction(context.ints()[0]), [&](auto combine, auto zero) {
    using T = decltype(zero);
    T* to = Data<T>(output);
    const T* from = Data<const T>(updates);
    // Tuples may repeat, so each thread applies all of them, in order, to its part of every slice.
    constexpr int64_t kGrain = 1 << 12;
    context.ParallelFor(slice, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t t = 0; t < tuple_count; ++t) {
        T* target = to + offsets[static_cast<size_t>(t)];
        const T* update = from + t * slice;
        for (int64_t i = begin; i < end; ++i) target[i] = combine(target[i], update[i]);
      }
    });
  });
}

}  // namespace ingot
