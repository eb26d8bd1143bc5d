#include <algorithm>
#include <limits>

#include "cpu/roi/regions.h"
#include "cpu/roi/roi.h"
#include "simd/vector_portable.h"

namespace ingot {
namespace {

using namespace roi;
using Lanes = simd::Portable;

// Features of this size stay in a core's second-level cache (1 to 2 MiB) while all regions are taken out of them.
constexpr int64_t kCachedBytes = 1 << 20;
// A fork of the threads takes 2 to 5 microseconds, in which a thread samples about this many elements.
constexpr int64_t kForkElements = 1 << 12;
// Rows of bins that are added up side by side: the usual seven fill two vectors.
constexpr int64_t kBinRows = 8;
// Vectors of four add up a whole line in the time in which one element for each tap is added up by itself.
constexpr int64_t kDenseExtent = 4;
constexpr int64_t kSampleCost = 8;  // of placing a sample, in elements

// A sampled coordinate: the two elements around it and their weights. Outside, both weights are 0.
template <typename C>
struct Sample {
  int64_t low, high;
  C below, above;  // the weights of `low` and `high`
};

template <typename C>
Sample<C> SampleAt(double at, int64_t extent) {
  if (!(at >= -1 && at <= static_cast<double>(extent))) return {0, 0, 0, 0};
  at = std::max(at, 0.0);
  const auto low = static_cast<int64_t>(at);
  if (low >= extent - 1) return {extent - 1, extent - 1, 1, 0};
  const auto above = static_cast<C>(at - static_cast<double>(low));
  return {low, low + 1, 1 - above, above};
}

// One side of a region: `bins` bins of `count` samples each.
struct Side {
  double start, bin;
  int64_t bins, count;

  template <typename C>
  Sample<C> At(int64_t i, int64_t k, int64_t extent) const {
    const double within = (static_cast<double>(k) + 0.5) * bin / static_cast<double>(count);
    return SampleAt<C>(start + static_cast<double>(i) * bin + within, extent);
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
  return {start, bin, bins, samples > 0 ? samples : std::max<int64_t>(static_cast<int64_t>(std::ceil(bin)), 0)};
}

// An element along a side, and its weight in a bin.
template <typename C>
struct Tap {
  int64_t at;
  C weight;
};

// A side of a region for means: bin i is what its taps [starts[i], starts[i + 1]) add up to.
template <typename C>
struct Bins {
  const Tap<C>* taps;
  const int64_t* starts;
  int64_t low, extent;  // the elements that there are taps at lie in [low, low + extent)

  const Tap<C>* begin(int64_t i) const { return taps + starts[i]; }
  const Tap<C>* end(int64_t i) const { return taps + starts[i + 1]; }
};

// Fills in a side's bins: samples of one bin that meet in an element are one tap.
template <typename C>
Bins<C> Fill(const Side& side, int64_t extent, Tap<C>* taps, int64_t* starts) {
  int64_t count = 0;
  int64_t low = extent;
  int64_t high = 0;
  for (int64_t i = 0; i < side.bins; ++i) {
    starts[i] = count;
    const auto add = [&](int64_t at, C weight) {
      if (weight == 0) return;
      low = std::min(low, at);
      high = std::max(high, at + 1);
      weight /= static_cast<C>(side.count);
      for (int64_t t = count - 1; t >= std::max(starts[i], count - 2); --t) {  // samples lie in order along the side
        if (taps[t].at != at) continue;
        taps[t].weight += weight;
        return;
      }
      taps[count++] = {at, weight};
    };
    for (int64_t k = 0; k < side.count; ++k) {
      const auto sample = side.At<C>(i, k, extent);
      add(sample.low, sample.below);
      add(sample.high, sample.above);
    }
  }
  starts[side.bins] = count;
  return {taps, starts, std::min(low, high), std::max<int64_t>(high - low, 0)};
}

// line[x] = the sum of kTaps rows, or what was there and that.
template <int kTaps, typename T, typename C>
void AddRows(const Tap<C>* taps, const T* from, int64_t stride, int64_t extent, bool first, C* line) {
  const T* rows[kTaps];
  for (int t = 0; t < kTaps; ++t) rows[t] = from + taps[t].at * stride;
  int64_t x = 0;
  if constexpr (std::is_same_v<T, float>) {
    Lanes::Float weights[kTaps];
    for (int t = 0; t < kTaps; ++t) weights[t] = Lanes::Set(taps[t].weight);
    for (; x + Lanes::kLanes <= extent; x += Lanes::kLanes) {
      Lanes::Float sum = first ? Lanes::Set(0.0f) : Lanes::Load(line + x);
      for (int t = 0; t < kTaps; ++t) sum = Lanes::Fma(weights[t], Lanes::Load(rows[t] + x), sum);
      Lanes::Store(line + x, sum);
    }
  }
  for (; x < extent; ++x) {
    C sum = first ? C{0} : line[x];
    for (int t = 0; t < kTaps; ++t) sum += taps[t].weight * Widen(rows[t][x]);
    line[x] = sum;
  }
}

// line[x] = the sum of a bin's rows.
template <typename T, typename C>
void AddBin(const Bins<C>& rows, int64_t bin, const T* from, int64_t stride, int64_t extent, C* line) {
  const Tap<C>* tap = rows.begin(bin);
  if (tap == rows.end(bin)) std::fill_n(line, extent, C{0});
  for (int64_t left = rows.end(bin) - tap; left > 0; left -= 4, tap += 4) {
    const auto add = left >= 4   ? AddRows<4, T, C>
                     : left == 3 ? AddRows<3, T, C>
                     : left == 2 ? AddRows<2, T, C>
                                 : AddRows<1, T, C>;
    add(tap, from, stride, extent, tap == rows.begin(bin), line);
  }
}

// lines [kBinRows, stride] to [extent, kBinRows].
template <typename C>
void Turn(const C* lines, int64_t stride, int64_t extent, C* turned) {
  int64_t x = 0;
  if constexpr (std::is_same_v<C, float>) {
    static_assert(kBinRows % Lanes::kTile == 0);
    for (; x + Lanes::kTile <= extent; x += Lanes::kTile) {
      for (int64_t i = 0; i < kBinRows; i += Lanes::kTile)
        Lanes::TransposeTile(lines + i * stride + x, stride, turned + x * kBinRows + i, kBinRows);
    }
  }
  for (; x < extent; ++x) {
    for (int64_t i = 0; i < kBinRows; ++i) turned[x * kBinRows + i] = lines[i * stride + x];
  }
}

// The means of one region of one channel out of whole lines: several rows of bins are added up from rows of elements,
// then turned, so that the rows lie side by side where elements of the lines are added up. `memory` has 2 * kBinRows
// times a line.
template <typename T, typename C>
void TakeMeans(const Bins<C>& rows, const Bins<C>& columns, const Sizes& s, const T* from, C* memory, T* to) {
  // A few elements more, if there are any, fill the last vector.
  const int64_t whole = (columns.extent + Lanes::kLanes - 1) / Lanes::kLanes * Lanes::kLanes;
  const int64_t extent = whole <= s.width ? whole : columns.extent;
  const int64_t low = std::min(columns.low, s.width - extent);
  C* turned = memory + kBinRows * extent;
  for (int64_t first = 0; first < s.rows; first += kBinRows) {
    const int64_t count = std::min(kBinRows, s.rows - first);
    for (int64_t i = 0; i < count; ++i) AddBin(rows, first + i, from + low, s.width, extent, memory + i * extent);
    std::fill(memory + count * extent, turned, C{0});
    Turn(memory, extent, extent, turned);
    for (int64_t j = 0; j < s.columns; ++j) {
      C sums[kBinRows] = {};
      for (const Tap<C>* tap = columns.begin(j); tap < columns.end(j); ++tap) {
        const C* elements = turned + (tap->at - low) * kBinRows;
        for (int64_t i = 0; i < kBinRows; ++i) sums[i] += tap->weight * elements[i];
      }
      for (int64_t i = 0; i < count; ++i) to[(first + i) * s.columns + j] = static_cast<T>(sums[i]);
    }
  }
}

// The same of a region that is so wide that most elements of its lines are in no bin.
template <typename T, typename C>
void TakeSparseMeans(const Bins<C>& rows, const Bins<C>& columns, const Sizes& s, const T* from, T* to) {
  for (int64_t i = 0; i < s.rows; ++i) {
    for (int64_t j = 0; j < s.columns; ++j) {
      C sum = 0;
      for (const Tap<C>* column = columns.begin(j); column < columns.end(j); ++column) {
        C value = 0;
        for (const Tap<C>* row = rows.begin(i); row < rows.end(i); ++row)
          value += row->weight * Widen(from[row->at * s.width + column->at]);
        sum += column->weight * value;
      }
      to[i * s.columns + j] = static_cast<T>(sum);
    }
  }
}

// The largest weighted element of the samples of each bin of one region of one channel.
template <typename T, typename C>
void TakeMaxima(const Sample<C>* rows, int64_t high, const Sample<C>* columns, int64_t wide, const Sizes& s,
                const T* from, T* to) {
  for (int64_t i = 0; i < s.rows; ++i) {
    for (int64_t j = 0; j < s.columns; ++j) {
      C best = high * wide > 0 ? -std::numeric_limits<C>::infinity() : C{0};
      for (int64_t y = i * high; y < (i + 1) * high; ++y) {
        for (int64_t x = j * wide; x < (j + 1) * wide; ++x) {
          const Sample<C>& row = rows[y];
          const Sample<C>& column = columns[x];
          const auto at = [&](int64_t a, int64_t b, C wa, C wb) { return Widen(from[a * s.width + b]) * wa * wb; };
          const C corners[] = {
              at(row.low, column.low, row.below, column.below), at(row.low, column.high, row.below, column.above),
              at(row.high, column.low, row.above, column.below), at(row.high, column.high, row.above, column.above)};
          best = std::max(best, *std::max_element(corners, corners + 4));
        }
      }
      to[i * s.columns + j] = static_cast<T>(best);
    }
  }
}

template <typename T>
void Align(KernelContext& context, const Sizes& s, const DLTensor& features, const DLTensor& regions,
           const DLTensor& batch, const DLTensor& pooled) {
  using C = Computed<T>;
  const int64_t samples = context.ints()[0];
  const bool half_pixel = context.ints()[1] != 0;
  const bool maximum = context.ints()[2] != 0;
  const double scale = context.floats()[0];
  const T* corners = Data<const T>(regions);
  // Of each region, the side of its rows and that of its columns.
  const auto sides = context.Scratch<Side>(static_cast<size_t>(2 * s.regions));
  const auto firsts = context.Scratch<int64_t>(static_cast<size_t>(2 * s.regions));
  const auto images = context.Scratch<int64_t>(static_cast<size_t>(s.regions));
  int64_t total = 0;
  for (int64_t r = 0; r < s.regions; ++r) {
    const auto corner = [&](int64_t i) { return static_cast<double>(Widen(corners[r * 4 + i])); };
    images[r] = BatchIndex(static_cast<double>(Data<const int64_t>(batch)[r]), s.batch);
    sides[2 * r] = SideOf(corner(1), corner(3), scale, half_pixel, s.rows, samples);
    sides[2 * r + 1] = SideOf(corner(0), corner(2), scale, half_pixel, s.columns, samples);
    for (int64_t side = 2 * r; side < 2 * r + 2; ++side) {
      firsts[side] = total;
      total += sides[side].bins * sides[side].count;
    }
  }

  const auto table = context.Scratch<Sample<C>>(static_cast<size_t>(maximum ? total : 0));
  const auto taps = context.Scratch<Tap<C>>(static_cast<size_t>(maximum ? 0 : 2 * total));
  const auto bins = context.Scratch<Bins<C>>(static_cast<size_t>(maximum ? 0 : 2 * s.regions));
  const int64_t own_starts = s.rows + s.columns + 2;
  const auto starts = context.Scratch<int64_t>(static_cast<size_t>(maximum ? 0 : s.regions * own_starts));
  const int64_t grain = 1 + kForkElements * s.regions / (1 + kSampleCost * total);
  context.ParallelFor(2 * s.regions, grain, [&](int64_t begin, int64_t end) {
    for (int64_t side = begin; side < end; ++side) {
      const int64_t extent = side % 2 == 0 ? s.height : s.width;
      if (maximum) {
        Sample<C>* sample = table.data() + firsts[side];
        for (int64_t i = 0; i < sides[side].bins; ++i) {
          for (int64_t k = 0; k < sides[side].count; ++k) *sample++ = sides[side].template At<C>(i, k, extent);
        }
      } else {
        int64_t* own = starts.data() + side / 2 * own_starts + (side % 2 == 0 ? 0 : s.rows + 1);
        bins[side] = Fill<C>(sides[side], extent, taps.data() + 2 * firsts[side], own);
      }
    }
  });

  // Some channels after one another, each time with all regions.
  const int64_t plane = s.height * s.width;
  const int64_t together = std::clamp<int64_t>(kCachedBytes / static_cast<int64_t>(sizeof(T)) / plane, 1, s.channels);
  const int64_t groups = (s.channels + together - 1) / together;
  const int64_t jobs = groups * s.regions;
  const int64_t work = s.regions * s.channels * s.rows * s.columns / kForkElements;
  const int64_t tasks = std::clamp<int64_t>(work, 1, std::min<int64_t>(context.threads(), jobs));
  const int64_t line = 2 * kBinRows * s.width;
  const auto lines = context.Scratch<C>(static_cast<size_t>(maximum ? 0 : tasks * line));
  context.ParallelFor(tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      for (int64_t job = jobs * task / tasks; job < jobs * (task + 1) / tasks; ++job) {
        const int64_t r = job % s.regions;
        const int64_t first = job / s.regions * together;
        for (int64_t channel = first; channel < std::min(first + together, s.channels); ++channel) {
          const T* from = Data<const T>(features) + (images[r] * s.channels + channel) * plane;
          T* to = Data<T>(pooled) + (r * s.channels + channel) * s.rows * s.columns;
          if (maximum) {
            TakeMaxima<T, C>(table.data() + firsts[2 * r], sides[2 * r].count, table.data() + firsts[2 * r + 1],
                             sides[2 * r + 1].count, s, from, to);
          } else {
            const Bins<C>& rows = bins[2 * r];
            const Bins<C>& columns = bins[2 * r + 1];
            if (columns.extent <= kDenseExtent * columns.starts[s.columns]) {
              TakeMeans<T, C>(rows, columns, s, from, lines.data() + task * line, to);
            } else {
              TakeSparseMeans<T, C>(rows, columns, s, from, to);
            }
          }
        }
      }
    }
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

}  // namespace ingot
