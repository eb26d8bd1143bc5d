#include "cpu/roi/roi.h"

#include <algorithm>
#include <limits>

#include "types.h"

namespace ingot {
namespace {

// Extents of the features and of the result.
struct Sizes {
  int64_t batch, channels, height, width, regions, rows, columns;
};

Sizes Check(const DLTensor& features, const DLTensor& regions, int64_t fields, const DLTensor& pooled) {
  const bool fits = features.ndim == 4 && regions.ndim == 2 && pooled.ndim == 4 && regions.shape[1] == fields &&
                    pooled.shape[0] == regions.shape[0] && pooled.shape[1] == features.shape[1] &&
                    regions.dtype == features.dtype && pooled.dtype == features.dtype;
  if (!fits)
    FailKernel("regions ", ShapeText(regions), " of features ", ShapeText(features), " cannot be pooled to ",
               ShapeText(pooled));
  return {features.shape[0], features.shape[1], features.shape[2], features.shape[3],
          regions.shape[0],  pooled.shape[2],   pooled.shape[3]};
}

int64_t BatchIndex(double index, int64_t batch) {
  if (!(index >= 0 && index < static_cast<double>(batch)))
    FailKernel("batch index ", index, " is out of range for a batch of ", batch);
  return static_cast<int64_t>(index);
}

// A sampled coordinate: the two elements around it and the weight of the second. Outside, both weights are 0.
struct Sample {
  int64_t low, high;
  float above;  // the weight of `high`
  float below;  // the weight of `low`
};

Sample SampleAt(double at, int64_t extent) {
  if (!(at >= -1 && at <= static_cast<double>(extent))) return {0, 0, 0, 0};
  at = std::max(at, 0.0);
  const auto low = static_cast<int64_t>(at);
  if (low >= extent - 1) return {extent - 1, extent - 1, 0, 1};
  const auto above = static_cast<float>(at - static_cast<double>(low));
  return {low, low + 1, above, 1 - above};
}

// The samples of one side of a region: `bins` times `count`, in order.
struct Side {
  double start, bin;
  int64_t count;

  void Fill(Sample* samples, int64_t bins, int64_t extent) const {
    for (int64_t i = 0; i < bins; ++i) {
      for (int64_t k = 0; k < count; ++k) {
        const double within = (static_cast<double>(k) + 0.5) * bin / static_cast<double>(count);
        *samples++ = SampleAt(start + static_cast<double>(i) * bin + within, extent);
      }
    }
  }
};

Side SideOf(double first, double last, double scale, bool half_pixel, int64_t bins, int64_t samples) {
  // More samples than that along one side of a bin mean a region of millions of elements: surely not one of these
  // features, and a loop that would not end.
  constexpr double kMostSamples = 1 << 12;
  const double start = first * scale - (half_pixel ? 0.5 : 0.0);
  double size = last * scale - first * scale;
  if (!half_pixel) size = std::max(size, 1.0);
  const double bin = size / static_cast<double>(bins);
  if (!std::isfinite(start) || !std::isfinite(bin) || bin > kMostSamples)
    FailKernel("a region from ", first, " to ", last, " is not finite or too large");
  return {start, bin, samples > 0 ? samples : std::max<int64_t>(static_cast<int64_t>(std::ceil(bin)), 0)};
}

template <typename T>
void Align(KernelContext& context, const Sizes& s, const DLTensor& features, const DLTensor& regions,
           const DLTensor& batch, const DLTensor& pooled) {
  const int64_t samples = context.ints()[0];
  const bool half_pixel = context.ints()[1] != 0;
  const bool maximum = context.ints()[2] != 0;
  const double scale = context.floats()[0];
  const T* corners = Data<const T>(regions);
  const auto sides = context.Scratch<Side>(static_cast<size_t>(2 * s.regions));
  const auto starts = context.Scratch<int64_t>(static_cast<size_t>(2 * s.regions));
  const auto images = context.Scratch<int64_t>(static_cast<size_t>(s.regions));
  int64_t total = 0;
  for (int64_t r = 0; r < s.regions; ++r) {
    const auto corner = [&](int64_t i) { return static_cast<double>(Widen(corners[r * 4 + i])); };
    images[r] = BatchIndex(static_cast<double>(Data<const int64_t>(batch)[r]), s.batch);
    sides[2 * r] = SideOf(corner(1), corner(3), scale, half_pixel, s.rows, samples);
    sides[2 * r + 1] = SideOf(corner(0), corner(2), scale, half_pixel, s.columns, samples);
    starts[2 * r] = total;
    starts[2 * r + 1] = total + s.rows * sides[2 * r].count;
    total = starts[2 * r + 1] + s.columns * sides[2 * r + 1].count;
  }
  const auto table = context.Scratch<Sample>(static_cast<size_t>(total));
  for (int64_t r = 0; r < s.regions; ++r) {
    sides[2 * r].Fill(table.data() + starts[2 * r], s.rows, s.height);
    sides[2 * r + 1].Fill(table.data() + starts[2 * r + 1], s.columns, s.width);
  }

  using C = Computed<T>;
  context.ParallelFor(s.regions * s.channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t r = plane / s.channels;
      const T* from = Data<const T>(features) + (images[r] * s.channels + plane % s.channels) * s.height * s.width;
      T* to = Data<T>(pooled) + plane * s.rows * s.columns;
      const int64_t high = sides[2 * r].count;
      const int64_t wide = sides[2 * r + 1].count;
      const auto count = static_cast<C>(std::max<int64_t>(high * wide, 1));
      for (int64_t i = 0; i < s.rows; ++i) {
        for (int64_t j = 0; j < s.columns; ++j) {
          C sum = 0;
          C best = -std::numeric_limits<C>::infinity();
          for (int64_t y = 0; y < high; ++y) {
            const Sample& row = table[starts[2 * r] + i * high + y];
            for (int64_t x = 0; x < wide; ++x) {
              const Sample& column = table[starts[2 * r + 1] + j * wide + x];
              const auto at = [&](int64_t a, int64_t b, float wa, float wb) {
                return Widen(from[a * s.width + b]) * static_cast<C>(wa) * static_cast<C>(wb);
              };
              const C corner[] = {at(row.low, column.low, row.below, column.below),
                                  at(row.low, column.high, row.below, column.above),
                                  at(row.high, column.low, row.above, column.below),
                                  at(row.high, column.high, row.above, column.above)};
              sum += corner[0] + corner[1] + corner[2] + corner[3];
              best = std::max(best, *std::max_element(corner, corner + 4));
            }
          }
          const C value = !maximum ? sum / count : high * wide > 0 ? best : C{0};
          to[i * s.columns + j] = static_cast<T>(value);
        }
      }
    }
  });
}

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

template <typename Body>
void DispatchFloat(const char* kernel, const DLTensor& tensor, Body&& body) {
  if (tensor.dtype.code != kDLFloat && tensor.dtype.code != kDLBfloat)
    FailKernel(std::string_view(kernel), " does not take ", DTypeText(tensor.dtype));
  DispatchNumber(kernel, tensor, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<Computed<T>>) body(zero);
  });
}

}  // namespace

void RoiAlign(KernelContext& context) {
  const DLTensor& features = context.Input(0);
  const DLTensor& regions = context.Input(1);
  const DLTensor& batch = context.Input(2);
  const DLTensor& pooled = context.Output(0);
  const Sizes sizes = Check(features, regions, 4, pooled);
  if (batch.ndim != 1 || batch.shape[0] != sizes.regions || DTypeText(batch.dtype) != "int64")
    FailKernel("batch indices are int64 [", sizes.regions, "], not ", DTypeText(batch.dtype), " ", ShapeText(batch));
  if (context.ints()[0] < 0 || context.ints()[0] > 1 << 12)
    FailKernel("a bin cannot have ", context.ints()[0], " samples along a side");
  if (ElementCount(pooled) == 0) return;
  if (ElementCount(features) == 0) FailKernel("there is nothing to pool in features ", ShapeText(features));
  DispatchFloat("roi_align", features,
                [&](auto zero) { Align<decltype(zero)>(context, sizes, features, regions, batch, pooled); });
}

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
