// Comparing and joining strings, element by element.

#include <algorithm>
#include <cstring>

#include "cpu/strings/strings.h"
#include "cpu/strings/text.h"

namespace ingot {
namespace {

constexpr int64_t kGrain = 1 << 12;

void CheckShapes(const KernelContext& context) {
  if (!std::ranges::equal(ShapeOf(context.Input(0)), ShapeOf(context.Input(1))))
    FailKernel("shapes ", ShapeText(context.Input(0)), " and ", ShapeText(context.Input(1)), " are not the same");
}

}  // namespace

void StringEqual(KernelContext& context) {
  CheckShapes(context);
  const auto a = Strings(context.Input(0));
  const auto b = Strings(context.Input(1));
  const DLTensor& output = context.AllocateOutput(0, ShapeOf(context.Input(0)));
  CheckType(output, "bool");
  auto* equal = Data<uint8_t>(output);
  context.ParallelFor(static_cast<int64_t>(a.size()), kGrain, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) equal[i] = View(a[i]) == View(b[i]);
  });
}

void StringConcat(KernelContext& context) {
  CheckShapes(context);
  const auto a = Strings(context.Input(0));
  const auto b = Strings(context.Input(1));
  const auto joined = Strings(context.AllocateOutput(0, ShapeOf(context.Input(0))));
  for (size_t i = 0; i < a.size(); ++i) {
    char* text = context.AllocateText(a[i].size + b[i].size);
    if (a[i].size > 0) std::memcpy(text, a[i].data, a[i].size);
    if (b[i].size > 0) std::memcpy(text + a[i].size, b[i].data, b[i].size);
    joined[i] = {text, a[i].size + b[i].size};
  }
}

}  // namespace ingot
