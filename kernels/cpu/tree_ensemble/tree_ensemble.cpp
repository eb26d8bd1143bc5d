#include "cpu/tree_ensemble/tree_ensemble.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ingot {
namespace {

enum Aggregate : int64_t { kAverage, kSum, kMinimum, kMaximum };

constexpr int64_t kTogether = 8;   // walks down a tree side by side, to hide the latency of loads
constexpr int64_t kBlock = 64;     // rows that a tree is used for while it is in the cache
constexpr int64_t kFewRows = 256;  // with fewer rows, trees are shared out too
constexpr int64_t kMostParts = 16;

template <typename T>
class Forest {
 public:
  Forest(KernelContext& context, const DLTensor& rows, const DLTensor& scores)
      : rows_(Data<const T>(rows)),
        features_(static_cast<uint32_t>(rows.shape[1])),
        outputs_(scores.shape[1]),
        nodes_(Data<const TreeNode<T>>(context.Input(1))),
        node_count_(static_cast<int32_t>(context.Input(1).shape[0])),
        roots_(Data<const int32_t>(context.Input(2))),
        starts_(Data<const int32_t>(context.Input(3))),
        leaves_(context.Input(3).shape[0] - 1),
        targets_(Data<const int32_t>(context.Input(4))),
        weights_(Data<const T>(context.Input(5))),
        entries_(context.Input(4).shape[0]),
        plain_(context.ints()[1] != 0),
        aggregate_(static_cast<Aggregate>(context.ints()[0])) {}

  double Start() const {
    return aggregate_ == kMinimum   ? std::numeric_limits<double>::infinity()
           : aggregate_ == kMaximum ? -std::numeric_limits<double>::infinity()
                                    : 0.0;
  }

  // Adds what trees [first, last) say about rows [begin, end) to scores [end - begin, outputs].
  void Add(int64_t first, int64_t last, int64_t begin, int64_t end, double* scores) const {
    for (int64_t block = begin; block < end; block += kBlock) {
      const int64_t rows = std::min(kBlock, end - block);
      const int64_t walks = (last - first) * rows;  // tree by tree, so that a tree stays in the cache for all rows
      int64_t tree = first;
      int64_t row = block;
      for (int64_t done = 0; done < walks; done += kTogether) {
        const int64_t count = std::min(kTogether, walks - done);
        int32_t at[kTogether];
        int64_t of[kTogether];
        for (int64_t i = 0; i < count; ++i) {
          at[i] = roots_[tree];
          of[i] = row;
          if (++row == block + rows) {
            row = block;
            ++tree;
          }
        }
        plain_ ? Walk<true>(of, count, at) : Walk<false>(of, count, at);
        for (int64_t i = 0; i < count; ++i) Give(~at[i], scores + (of[i] - begin) * outputs_);
      }
    }
  }

  void Combine(double& score, double other) const {
    if (aggregate_ == kMinimum) {
      score = std::min(score, other);
    } else if (aggregate_ == kMaximum) {
      score = std::max(score, other);
    } else {
      score += other;
    }
  }

  T Finish(double score, int64_t trees) const {
    if (aggregate_ == kAverage) return static_cast<T>(score / static_cast<double>(std::max<int64_t>(trees, 1)));
    return static_cast<T>(score == Start() ? 0.0 : score);
  }

 private:
  static bool Holds(int32_t test, T x, T value) {
    if (std::isnan(x) && (test & 8) != 0) return true;
    switch (test & 7) {
      case 0:
        return x <= value;
      case 1:
        return x < value;
      case 2:
        return x >= value;
      case 3:
        return x > value;
      case 4:
        return x == value;
      default:
        return x != value;
    }
  }

  // Takes `count` walks, each of a row from a root in `at`, to their leaves. Nodes only lead to later ones, so this
  // ends.
  template <bool kPlain>
  void Walk(const int64_t* rows, int64_t count, int32_t* at) const {
    for (int64_t i = 0; i < count; ++i)
      if (at[i] >= node_count_) FailKernel("a tree starts at node ", at[i], " of ", node_count_);
    for (bool moved = true; moved;) {
      moved = false;
      for (int64_t i = 0; i < count; ++i) {
        const int32_t current = at[i];
        if (current < 0) continue;
        const TreeNode<T>& node = nodes_[current];
        const uint32_t feature = static_cast<uint32_t>(node.test) >> 4;
        if (feature >= features_) [[unlikely]]
          FailKernel("node ", current, " tests feature ", feature, " of ", features_);
        const T x = rows_[rows[i] * features_ + feature];
        const bool fails = kPlain ? !(x <= node.value) : !Holds(node.test, x, node.value);
        const int32_t next = node.children[fails];  // a load rather than a branch, which could not be predicted
        if (next >= 0) {
          if (next <= current || next >= node_count_) [[unlikely]]
            FailKernel("node ", current, " leads to ", next);
          moved = true;
        }
        at[i] = next;
      }
    }
  }

  void Give(int64_t leaf, double* scores) const {
    if (leaf >= leaves_) FailKernel("there is no leaf ", leaf, " of ", leaves_);
    const int64_t last = starts_[leaf + 1];
    const int64_t first = starts_[leaf];
    if (first < 0 || last > entries_) FailKernel("leaf ", leaf, " is out of range");
    for (int64_t j = first; j < last; ++j) {
      const auto target = static_cast<uint32_t>(targets_[j]);
      if (target >= outputs_) FailKernel("leaf ", leaf, " gives to target ", target, " of ", outputs_);
      Combine(scores[target], static_cast<double>(weights_[j]));
    }
  }

  const T* rows_;
  uint32_t features_;
  int64_t outputs_;
  const TreeNode<T>* nodes_;
  int32_t node_count_;
  const int32_t* roots_;
  const int32_t* starts_;
  int64_t leaves_;
  const int32_t* targets_;
  const T* weights_;
  int64_t entries_;
  bool plain_;
  Aggregate aggregate_;
};

template <typename T>
void Run(KernelContext& context, const DLTensor& rows, const DLTensor& scores) {
  const Forest<T> forest(context, rows, scores);
  const int64_t count = rows.shape[0];
  const int64_t outputs = scores.shape[1];
  const int64_t trees = context.Input(2).shape[0];
  T* to = Data<T>(scores);
  // Parts of trees, then of rows: neither depends on the number of threads.
  const int64_t parts = count < kFewRows ? std::clamp<int64_t>(trees / 32, 1, kMostParts) : 1;
  const int64_t per_block = parts > 1 ? count : kBlock;
  const int64_t blocks = (count + per_block - 1) / per_block;
  const auto sums = context.Scratch<double>(static_cast<size_t>(parts * count * outputs));
  context.ParallelFor(parts * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / blocks;
      const int64_t first = task % blocks * per_block;
      const int64_t last = std::min(first + per_block, count);
      double* mine = sums.data() + (part * count + first) * outputs;
      std::fill(mine, mine + (last - first) * outputs, forest.Start());
      forest.Add(trees * part / parts, trees * (part + 1) / parts, first, last, mine);
    }
  });
  for (int64_t i = 0; i < count * outputs; ++i) {
    double score = sums[i];
    for (int64_t part = 1; part < parts; ++part) forest.Combine(score, sums[part * count * outputs + i]);
    to[i] = forest.Finish(score, trees);
  }
}

}  // namespace

void TreeEnsemble(KernelContext& context) {
  const DLTensor& rows = context.Input(0);
  const DLTensor& scores = context.Output(0);
  const bool wide = DTypeText(rows.dtype) == "float64";
  const auto is = [](const DLTensor& tensor, int32_t rank, std::string_view dtype) {
    return tensor.ndim == rank && DTypeText(tensor.dtype) == dtype;
  };
  const std::string_view number = wide ? "float64" : "float32";
  static_assert(sizeof(TreeNode<float>) == 16 && sizeof(TreeNode<double>) == 24);
  const DLTensor& starts = context.Input(3);
  bool fits = is(rows, 2, number) && is(scores, 2, number) && scores.shape[0] == rows.shape[0] &&
              is(context.Input(1), 2, "int32") && context.Input(1).shape[1] == (wide ? 6 : 4) &&
              is(context.Input(2), 1, "int32") && is(starts, 1, "int32") && starts.shape[0] > 0 &&
              is(context.Input(4), 1, "int32") && is(context.Input(5), 1, number) &&
              context.Input(4).shape[0] == context.Input(5).shape[0] && rows.shape[1] < (1 << 27) &&
              context.Input(1).shape[0] <= std::numeric_limits<int32_t>::max() && context.ints()[0] >= kAverage &&
              context.ints()[0] <= kMaximum;
  // Nodes of float64 rows hold doubles.
  fits = fits && reinterpret_cast<uintptr_t>(Data<const std::byte>(context.Input(1))) % (wide ? 8 : 4) == 0;
  if (!fits)
    FailKernel("a forest cannot give ", DTypeText(scores.dtype), ShapeText(scores), " for rows ", DTypeText(rows.dtype),
               ShapeText(rows));
  if (ElementCount(scores) == 0) return;
  wide ? Run<double>(context, rows, scores) : Run<float>(context, rows, scores);
}

}  // namespace ingot
