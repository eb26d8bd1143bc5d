#include "cpu/topk/topk.h"

#include <algorithm>
#include <functional>

#include "ranking.h"

namespace ingot {
namespace {

// A fork of the threads takes 2 to 5 microseconds, in which a thread looks at about this many elements.
constexpr int64_t kForkElements = 1 << 13;
constexpr int64_t kBlock = 32;        // elements that are compared with the least of the best at once
constexpr int64_t kLeastSpare = 256;  // places for elements that may be among the best
constexpr int64_t kLineBytes = 64;    // of a cache line: rows that lie side by side are read together
constexpr int64_t kChunk = 512;       // elements of each of them that are brought into a row

// The best k of the elements that it is shown, in the order of their places.
template <typename T, typename Entry>
class Best {
 public:
  Best() = default;
  Best(Entry* entries, int64_t k, int64_t capacity, bool largest)
      : entries_(entries), k_(k), capacity_(capacity), flip_(largest ? 0 : -1) {}

  void Look(const T* line, int64_t count, int64_t place) {
    int64_t i = 0;
    while (i < count && least_ == 0) {
      Add(line[i], place + i);
      ++i;
    }
    for (; i + kBlock <= count; i += kBlock) {
      if (!MayAdd(line + i)) continue;
      for (int64_t j = i; j < i + kBlock; ++j) Add(line[j], place + j);
    }
    for (; i < count; ++i) Add(line[i], place + i);
  }

  // Leaves the best at the front, sorted if they are asked to be, and says how many there are.
  int64_t Finish(bool sorted) {
    if (count_ > k_) Shrink();
    if (sorted) std::sort(entries_, entries_ + count_, std::greater<>());
    return count_;
  }

 private:
  using Key = OrderKey<T>;

  void Add(T value, int64_t place) {
    const Entry entry = Ranked<Entry>::Of(KeyOf(value) ^ flip_, place);
    if (entry <= least_) return;
    entries_[count_++] = entry;
    if (count_ == capacity_) Shrink();
  }

  void Shrink() {
    std::nth_element(entries_, entries_ + k_ - 1, entries_ + count_, std::greater<>());
    count_ = k_;
    least_ = entries_[k_ - 1];
    limit_ = static_cast<Key>(Ranked<Entry>::Key(least_));
  }

  // Whether one of a block may be better than the least of the best: true at times where none is, if there are NaNs.
  bool MayAdd(const T* block) const {
    int found = 0;
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
      const T limit = ValueOf<T>(limit_ ^ flip_);
      if (flip_ == 0) {
        for (int64_t j = 0; j < kBlock; ++j) found |= !(block[j] <= limit);
      } else {
        for (int64_t j = 0; j < kBlock; ++j) found |= !(block[j] >= limit);
      }
    } else {
      for (int64_t j = 0; j < kBlock; ++j) found |= (KeyOf(block[j]) ^ flip_) > limit_;
    }
    return found != 0;
  }

  Entry* entries_;
  int64_t k_;
  int64_t capacity_;
  Key flip_;  // -1 turns the order over
  int64_t count_ = 0;
  Entry least_ = 0;  // of the best, once there were more than k
  Key limit_ = 0;
};

// Rows of the input are [outer, extent, inner]. A job is of one part of the extent of some rows that lie side by side.
template <typename T, typename Entry>
class Selection {
 public:
  Selection(KernelContext& context, const DLTensor& input, const DLTensor& values, int64_t axis)
      : context_(context),
        from_(Data<const T>(input)),
        to_(Data<T>(values)),
        indices_(context.output_count() > 1 ? Data<int64_t>(context.Output(1)) : nullptr),
        largest_(context.ints()[1] != 0),
        extent_(input.shape[axis]),
        k_(values.shape[axis]),
        inner_(ElementCount(ShapeOf(input).subspan(static_cast<size_t>(axis) + 1))),
        outer_(ElementCount(ShapeOf(input).first(static_cast<size_t>(axis)))),
        together_(std::min(inner_, kLineBytes / static_cast<int64_t>(sizeof(T)))),
        groups_((inner_ + together_ - 1) / together_),
        capacity_(std::min(extent_, k_ + std::max(k_, kLeastSpare))) {}

  void Run() {
    const int64_t threads = context_.threads();
    // Fewer rows than threads: parts of rows, as long as what they find is short beside them.
    const int64_t most_parts = std::max<int64_t>(extent_ * together_ / std::max(kForkElements, 4 * k_ * together_), 1);
    parts_ = std::clamp<int64_t>((threads + outer_ * groups_ - 1) / (outer_ * groups_), 1, most_parts);
    const int64_t jobs = outer_ * groups_ * parts_;
    const int64_t work = outer_ * inner_ * extent_ / kForkElements;
    const int64_t tasks = std::clamp<int64_t>(work, 1, std::min(threads, jobs));
    const auto entries = context_.Scratch<Entry>(static_cast<size_t>(tasks * together_ * capacity_));
    const auto lines = context_.Scratch<T>(static_cast<size_t>(inner_ == 1 ? 0 : tasks * together_ * kChunk));
    const int64_t rows = outer_ * inner_;
    const auto found = context_.Scratch<Entry>(static_cast<size_t>(parts_ == 1 ? 0 : rows * parts_ * k_));
    context_.ParallelFor(tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        for (int64_t job = jobs * task / tasks; job < jobs * (task + 1) / tasks; ++job) {
          RunJob(job, entries.data() + task * together_ * capacity_, lines.data() + task * together_ * kChunk,
                 found.data());
        }
      }
    });
    for (int64_t row = 0; parts_ > 1 && row < rows; ++row) {
      Entry* first = found.data() + row * parts_ * k_;
      Entry* last = first;
      for (int64_t part = 0; part < parts_; ++part)
        last = std::copy_n(first + part * k_, std::min(k_, Start(part + 1) - Start(part)), last);
      std::nth_element(first, first + k_ - 1, last, std::greater<>());
      std::sort(first, first + k_, std::greater<>());
      Write(row / inner_, row % inner_, first);
    }
  }

 private:
  int64_t Start(int64_t part) const { return extent_ * part / parts_; }

  void RunJob(int64_t job, Entry* entries, T* lines, Entry* found) const {
    const int64_t part = job % parts_;
    const int64_t outer = job / parts_ / groups_;
    const int64_t column = job / parts_ % groups_ * together_;
    const int64_t columns = std::min(together_, inner_ - column);
    const T* from = from_ + outer * extent_ * inner_ + column;
    Best<T, Entry> best[kLineBytes / sizeof(T)];
    for (int64_t c = 0; c < columns; ++c) best[c] = {entries + c * capacity_, k_, capacity_, largest_};
    if (inner_ == 1) {
      best[0].Look(from + Start(part), Start(part + 1) - Start(part), Start(part));
    } else {
      for (int64_t first = Start(part); first < Start(part + 1); first += kChunk) {
        const int64_t count = std::min(kChunk, Start(part + 1) - first);
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t c = 0; c < columns; ++c) lines[c * kChunk + i] = from[(first + i) * inner_ + c];
        }
        for (int64_t c = 0; c < columns; ++c) best[c].Look(lines + c * kChunk, count, first);
      }
    }
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t count = best[c].Finish(parts_ == 1);
      const Entry* own = entries + c * capacity_;
      if (parts_ == 1) {
        Write(outer, column + c, own);
      } else {
        std::copy_n(own, count, found + ((outer * inner_ + column + c) * parts_ + part) * k_);
      }
    }
  }

  void Write(int64_t outer, int64_t column, const Entry* best) const {
    const T* from = from_ + outer * extent_ * inner_ + column;
    const int64_t first = outer * k_ * inner_ + column;
    for (int64_t i = 0; i < k_; ++i) {
      const int64_t place = Ranked<Entry>::Place(best[i]);
      to_[first + i * inner_] = from[place * inner_];
      if (indices_ != nullptr) indices_[first + i * inner_] = place;
    }
  }

  KernelContext& context_;
  const T* from_;
  T* to_;
  int64_t* indices_;
  bool largest_;
  int64_t extent_, k_, inner_, outer_, together_, groups_, capacity_;
  int64_t parts_ = 1;
};

template <typename T>
void Select(KernelContext& context, const DLTensor& input, const DLTensor& values, int64_t axis) {
  if (sizeof(OrderKey<T>) <= sizeof(uint32_t) && input.shape[axis] < std::numeric_limits<uint32_t>::max()) {
    Selection<T, uint64_t>(context, input, values, axis).Run();
  } else {
    Selection<T, Wide>(context, input, values, axis).Run();
  }
}

}  // namespace

void TopK(KernelContext& context) {
  const DLTensor& input = context.Input(0);
  const DLTensor& values = context.Output(0);
  const int64_t axis = context.ints()[0];
  if (axis < 0 || axis >= input.ndim) FailKernel("there is no axis ", axis, " in ", ShapeText(input));
  bool fits = values.ndim == input.ndim && values.dtype == input.dtype;
  for (int32_t i = 0; fits && i < input.ndim; ++i)
    fits = i == axis ? values.shape[i] <= input.shape[i] : values.shape[i] == input.shape[i];
  if (context.output_count() > 1) {
    const DLTensor& indices = context.Output(1);
    fits = fits && DTypeText(indices.dtype) == "int64" && std::ranges::equal(ShapeOf(indices), ShapeOf(values));
  }
  if (!fits)
    FailKernel("the top of ", ShapeText(input), " along axis ", axis, " cannot have shape ", ShapeText(values));
  if (ElementCount(values) == 0) return;
  DispatchNumber("topk", input, [&](auto zero) { Select<decltype(zero)>(context, input, values, axis); });
}

}  // namespace ingot
