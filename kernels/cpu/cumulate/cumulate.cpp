#include "cpu/cumulate/cumulate.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "types.h"

namespace ingot {
namespace {

// Neighboring lines that one pass follows together, so that memory is read in order.
constexpr int64_t kLines = 64;

struct Options {
  bool product, exclusive, reverse;
};

// Signed overflow wraps, as it does in compiled code.
template <typename T>
using Wrapping = typename std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>, std::type_identity<T>>::type;

// Unsigned types below int are promoted to int, in which a product of two could overflow.
template <typename C>
using Multiplied = std::conditional_t<std::is_integral_v<C>, std::common_type_t<C, uint32_t>, C>;

// Lines [begin, end) of an axis of `extent` elements that are `stride` apart.
template <typename T>
void Follow(const T* from, T* to, int64_t extent, int64_t stride, int64_t lines, const Options& options) {
  using C = Wrapping<Computed<T>>;
  std::array<C, kLines> totals;
  totals.fill(static_cast<C>(options.product ? 1 : 0));
  for (int64_t k = 0; k < extent; ++k) {
    const int64_t at = (options.reverse ? extent - 1 - k : k) * stride;
    for (int64_t j = 0; j < lines; ++j) {
      C& total = totals[static_cast<size_t>(j)];
      const C element = static_cast<C>(Widen(from[at + j]));
      const C next = options.product ? static_cast<C>(Multiplied<C>(total) * Multiplied<C>(element))
                                     : static_cast<C>(total + element);
      to[at + j] = static_cast<T>(static_cast<Computed<T>>(options.exclusive ? total : next));
      total = next;
    }
  }
}

}  // namespace

void Cumulate(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const DLTensor& output = context.Output(0);
  const auto ints = context.ints();
  const int64_t axis = ints[0];
  const Options options{ints[1] != 0, ints[2] != 0, ints[3] != 0};
  if (axis < 0 || axis >= input.ndim) FailKernel("cumulate: there is no axis ", axis);
  if (output.dtype != input.dtype || !std::ranges::equal(ShapeOf(input), ShapeOf(output)))
    FailKernel("cumulate: the output has another type or shape than the input");
  const auto shape = ShapeOf(input);
  const auto split = static_cast<size_t>(axis);
  const int64_t before = ElementCount(shape.first(split));
  const int64_t extent = shape[split];
  const int64_t after = ElementCount(shape.subspan(split + 1));
  if (before == 0 || extent == 0 || after == 0) return;
  const int64_t groups = (after + kLines - 1) / kLines;
  DispatchNumber("cumulate", input, [&](auto zero) {
    using T = decltype(zero);
    const T* from = Data<const T>(input);
    T* to = Data<T>(output);
    constexpr int64_t kGrain = 1 << 13;  // elements below which another thread does not pay
    const int64_t work = std::max<int64_t>(1, extent * std::min(after, kLines));
    context.ParallelFor(before * groups, std::max<int64_t>(1, kGrain / work), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % groups * kLines;
        const int64_t offset = i / groups * extent * after + first;
        Follow(from + offset, to + offset, extent, after, std::min(kLines, after - first), options);
      }
    });
  });
}

}  // namespace ingot
