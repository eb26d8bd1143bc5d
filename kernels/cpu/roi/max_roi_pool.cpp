#include <algorithm>

#include "cpu/roi/regions.h"
#include "cpu/roi/roi.h"

namespace ingot {
namespace {

using namespace roi;

template <typename T>
void Pool(KernelContext& context, const Sizes& s, const DLTensor& features, const DLTensor& regions,
          const DLTensor& pooled) {
  const double scale = context.floats()[0];
  const T* fields = Data<const T>(regions);
  const auto images = context.Scratch<int64_t>(static_cast<size_t>(s.regions));
  for (int64_t r = 0; r < s.regions; ++r) images[r] = BatchIndex(static_cast<double>(Widen(fields[r * 5])), s.batch);
  context.ParallelFor(s.regions * s.channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t r = plane / s.channels;
      const T* from = Data<const T>(features) + (images[r] * s.channels + plane % s.channels) * s.height * s.width;
      T* to = Data<T>(pooled) + plane * s.rows * s.columns;
      const auto edge = [&](int64_t i) { return std::round(static_cast<double>(Widen(fields[r * 5 + i])) * scale); };
      // The elements of bin i of n along a side, within the features.
      const auto bin = [](double first, double last, int64_t i, int64_t n, int64_t extent) {
        const double size = std::max(last - first + 1, 1.0) / static_cast<double>(n);
        const double low = std::floor(static_cast<double>(i) * size) + first;
        const double high = std::ceil(static_cast<double>(i + 1) * size) + first;
        const auto within = [&](double v) {
          return std::isnan(v) ? int64_t{0} : static_cast<int64_t>(std::clamp(v, 0.0, static_cast<double>(extent)));
        };
        return std::pair(within(low), within(high));
      };
      for (int64_t i = 0; i < s.rows; ++i) {
        const auto [top, bottom] = bin(edge(2), edge(4), i, s.rows, s.height);
        for (int64_t j = 0; j < s.columns; ++j) {
          const auto [left, right] = bin(edge(1), edge(3), j, s.columns, s.width);
          T best{};
          bool found = false;
          for (int64_t y = top; y < bottom; ++y) {
            for (int64_t x = left; x < right; ++x) {
              const T value = from[y * s.width + x];
              if (!found || Widen(value) > Widen(best)) best = value;
              found = true;
            }
          }
          to[i * s.columns + j] = found ? best : static_cast<T>(Computed<T>{0});
        }
      }
    }
  });
}

}  // namespace

void MaxRoiPool(KernelContext& context) {
  const DLTensor& features = context.Input(0);
  const DLTensor& regions = context.Input(1);
  const DLTensor& pooled = context.Output(0);
  const Sizes sizes = Check(features, regions, 5, pooled);
  if (ElementCount(pooled) == 0) return;
  DispatchFloat("max_roi_pool", features,
                [&](auto zero) { Pool<decltype(zero)>(context, sizes, features, regions, pooled); });
}

}  // namespace ingot
