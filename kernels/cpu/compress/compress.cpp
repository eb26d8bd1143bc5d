#include "cpu/compress/compress.h"

#include <cstring>
#include <vector>

namespace ingot {

void Compress(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const DLTensor& condition = context.Input(1);
  const int64_t axis = context.ints()[0];
  const bool flat = axis == -1;
  if (condition.ndim != 1 || condition.dtype.code != kDLBool)
    FailKernel("the condition is a 1-D tensor of bool, not ", ShapeText(condition), " of ", DTypeText(condition.dtype));
  if (!flat && (axis < 0 || axis >= input.ndim)) FailKernel("there is no axis ", axis, " in ", ShapeText(input));
  const auto shape = ShapeOf(input);
  const auto split = static_cast<size_t>(flat ? 0 : axis);
  const int64_t outer = flat ? 1 : ElementCount(shape.first(split));
  const int64_t extent = flat ? ElementCount(input) : shape[split];
  const int64_t inner = flat ? 1 : ElementCount(shape.subspan(split + 1));
  const int64_t length = condition.shape[0];
  if (length > extent) FailKernel("the condition has ", length, " elements, the axis ", extent);

  const auto chosen = context.Scratch<int64_t>(static_cast<size_t>(length));
  const uint8_t* holds = Data<const uint8_t>(condition);
  size_t count = 0;
  for (int64_t i = 0; i < length; ++i) {
    if (holds[i]) chosen[count++] = i;
  }
  std::vector<int64_t> result(shape.begin(), shape.end());
  if (flat) result.assign(1, 0);
  result[split] = static_cast<int64_t>(count);
  const DLTensor& output = context.AllocateOutput(0, result);

  const size_t slice = static_cast<size_t>(inner) * ElementBytes(input);
  const std::byte* from = Data<const std::byte>(input);
  std::byte* to = Data<std::byte>(output);
  if (slice == 0) return;
  constexpr int64_t kGrainBytes = 1 << 16;
  const auto rows = static_cast<int64_t>(count);
  context.ParallelFor(outer * rows, 1 + kGrainBytes / static_cast<int64_t>(slice), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t source = i / rows * extent + chosen[static_cast<size_t>(i % rows)];
      std::memcpy(to + static_cast<size_t>(i) * slice, from + static_cast<size_t>(source) * slice, slice);
    }
  });
}

}  // namespace ingot
