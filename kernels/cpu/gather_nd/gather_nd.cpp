#include "cpu/gather_nd/gather_nd.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "indices.h"

namespace ingot {

void GatherNd(KernelContext& context) {
  const DLTensor& data = context.Input(0);
  const DLTensor& tuples = context.Input(1);
  const Indices indices(tuples);
  const int64_t batch_dims = context.ints()[0];
  if (tuples.ndim < 1 || batch_dims < 0 || batch_dims >= tuples.ndim || batch_dims >= data.ndim) {
    FailKernel("batch_dims is ", batch_dims, " for data ", ShapeText(data), " and indices ", ShapeText(tuples));
  }
  const auto shape = ShapeOf(data);
  const auto tuple_shape = ShapeOf(tuples);
  const auto batch = static_cast<size_t>(batch_dims);
  const int64_t depth = tuple_shape.back();
  const bool fits = depth >= 1 && depth <= data.ndim - batch_dims &&
                    std::equal(shape.begin(), shape.begin() + batch_dims, tuple_shape.begin());
  if (!fits)
    FailKernel("indices ", ShapeText(tuples), " do not index data ", ShapeText(data), " with batch_dims ", batch_dims);

  const auto indexed = shape.subspan(batch, static_cast<size_t>(depth));
  const auto slice_shape = shape.subspan(batch + static_cast<size_t>(depth));
  std::vector<int64_t> result(tuple_shape.begin(), tuple_shape.end() - 1);
  result.insert(result.end(), slice_shape.begin(), slice_shape.end());
  const DLTensor& output = context.AllocateOutput(0, result);

  const int64_t tuple_count = ElementCount(tuple_shape.first(tuple_shape.size() - 1));
  const int64_t batch_count = ElementCount(shape.first(batch));
  const int64_t per_batch = batch_count == 0 ? 0 : tuple_count / batch_count;
  const int64_t positions = ElementCount(indexed);
  const size_t slice = static_cast<size_t>(ElementCount(slice_shape)) * ElementBytes(data);
  const std::byte* from = Data<const std::byte>(data);
  std::byte* to = Data<std::byte>(output);
  constexpr int64_t kGrainBytes = 1 << 16;
  context.ParallelFor(tuple_count, 1 + kGrainBytes / static_cast<int64_t>(slice + 16), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      int64_t position = 0;
      for (int64_t i = 0; i < depth; ++i) {
        const int64_t extent = indexed[static_cast<size_t>(i)];
        position = position * extent + indices.Wrapped(t * depth + i, extent);
      }
      const int64_t source = t / per_batch * positions + position;
      if (slice > 0)
        std::memcpy(to + static_cast<size_t>(t) * slice, from + static_cast<size_t>(source) * slice, slice);
    }
  });
}

}  // namespace ingot
