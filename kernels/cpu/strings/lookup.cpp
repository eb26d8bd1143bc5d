// Places of strings among sorted ones.

#include <algorithm>
#include <numeric>

#include "cpu/strings/strings.h"
#include "cpu/strings/text.h"

namespace ingot {

void StringLookup(KernelContext& context) {
  const auto strings = Strings(context.Input(0));
  const auto keys = Strings(context.Input(1));
  const DLTensor& output = context.AllocateOutput(0, ShapeOf(context.Input(0)));
  CheckType(output, "int64");
  auto* places = Data<int64_t>(output);
  constexpr int64_t kGrain = 1 << 10;
  context.ParallelFor(static_cast<int64_t>(strings.size()), kGrain, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const auto found = std::ranges::lower_bound(keys, View(strings[i]), {}, View);
      const bool equal = found != keys.end() && View(*found) == View(strings[i]);
      places[i] = equal ? found - keys.begin() : static_cast<int64_t>(keys.size());
    }
  });
}

void StringRank(KernelContext& context) {
  const auto strings = Strings(context.Input(0));
  const DLTensor& output = context.AllocateOutput(0, ShapeOf(context.Input(0)));
  CheckType(output, "int64");
  auto* ranks = Data<int64_t>(output);
  const auto order = context.Scratch<size_t>(strings.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return View(strings[i]); });
  const auto different = context.Scratch<ingot_string>(strings.size());
  int64_t count = 0;
  for (const size_t i : order) {
    if (count == 0 || View(different[static_cast<size_t>(count - 1)]) != View(strings[i]))
      different[static_cast<size_t>(count++)] = strings[i];
    ranks[i] = count - 1;
  }
  const int64_t shape[] = {count};
  std::ranges::copy(different.first(static_cast<size_t>(count)), Strings(context.AllocateOutput(1, shape)).begin());
}

}  // namespace ingot
