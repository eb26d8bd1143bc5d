#include "cpu/tensor_scatter/tensor_scatter.h"

#include <algorithm>
#include <cstring>

#include "cpu/tensor_scatter/checks.h"
#include "indices.h"
#include "types.h"

namespace ingot {
namespace {

// Far from where a sum of steps would leave 64 bits.
constexpr int64_t kMostStart = int64_t{1} << 48;

// Where steps go.
struct Slots {
  int64_t capacity;
  int64_t sinks;
  bool circular;

  int64_t operator()(int64_t position) const {
    if (!circular || position < sinks) return position;
    return sinks + (position - sinks) % (capacity - sinks);
  }
};

template <typename To, typename From>
void Put(To* to, const From* from, int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
  } else {
    std::transform(from, from + count, to, [](From x) { return static_cast<To>(x); });
  }
}

// Batches times what lies before the axis, steps, and elements behind it.
struct Extents {
  int64_t batches;
  int64_t before;
  int64_t steps;
  int64_t behind;
};

template <typename To, typename From>
void Scatter(KernelContext& context, To* cache, const From* update, const Extents& extents, const Slots& slots,
             const int64_t* first) {
  constexpr int64_t kGrain = 1 << 14;  // elements
  const int64_t rows = extents.batches * extents.before;
  // Where a ring is shorter than the update, later steps replace earlier ones: each row is written in order.
  context.ParallelFor(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, extents.steps * extents.behind)),
                      [&](int64_t begin, int64_t end) {
                        for (int64_t row = begin; row < end; ++row) {
                          To* to = cache + row * slots.capacity * extents.behind;
                          const From* from = update + row * extents.steps * extents.behind;
                          const int64_t start = first[row / extents.before];
                          for (int64_t s = 0; s < extents.steps; ++s)
                            Put(to + slots(start + s) * extents.behind, from + s * extents.behind, extents.behind);
                        }
                      });
}

}  // namespace

void TensorScatter(KernelContext& context) {
  const DLTensor& cache = context.Input(0);
  const DLTensor& update = context.Input(1);
  const DLTensor* first = context.OptionalInput(2);
  const auto ints = context.ints();
  const int64_t axis = ints[0];
  const auto shape = ShapeOf(cache);
  const auto given = ShapeOf(update);
  tensor_scatter::Check(cache, update, first, axis);

  const auto at = static_cast<size_t>(axis);
  const Extents extents{shape[0], ElementCount(shape.subspan(1, at - 1)), given[at],
                        ElementCount(shape.subspan(at + 1))};
  const Slots slots{shape[at], ints[2], ints[1] != 0};
  if (slots.circular && (slots.sinks < 0 || slots.sinks >= slots.capacity) && extents.steps > 0)
    FailKernel(slots.sinks, " of ", slots.capacity, " slots stay, so that none is left for a ring");
  const auto starts = context.Scratch<int64_t>(static_cast<size_t>(std::max<int64_t>(extents.batches, 1)));
  for (int64_t b = 0; b < extents.batches; ++b) {
    const int64_t start = first == nullptr ? 0 : Indices(*first)[b];
    if (start < 0) FailKernel(FaultText({FaultKind::kBeforeFirst, {b, start}}));
    if (start > kMostStart) FailKernel("batch ", b, " starts at step ", start, ", which is beyond any text");
    if (!slots.circular && start + extents.steps > slots.capacity)
      FailKernel(FaultText({FaultKind::kFull, {b, start, extents.steps, slots.capacity}}));
    starts[static_cast<size_t>(b)] = start;
  }

  const DLTensor& output = context.AllocateOutput(0, shape);
  if (output.data != cache.data)
    std::memcpy(output.data, Data<const std::byte>(cache),
                static_cast<size_t>(ElementCount(cache)) * ElementBytes(cache));
  if (extents.steps == 0 || extents.behind == 0) return;
  const bool same = cache.dtype == update.dtype;
  if (same) {
    DispatchSize(cache, [&](auto zero) {
      using T = decltype(zero);
      Scatter(context, Data<T>(output), Data<const T>(update), extents, slots, starts.data());
    });
  } else if (cache.dtype.code == kDLFloat) {
    Scatter(context, Data<Half>(output), Data<const float>(update), extents, slots, starts.data());
  } else {
    Scatter(context, Data<Bfloat16>(output), Data<const float>(update), extents, slots, starts.data());
  }
}

}  // namespace ingot
