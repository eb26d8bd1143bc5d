#include "cpu/tree_ensemble/tree_ensemble.h"

#include <algorithm>
#include <limits>

#include "cpu/tree_ensemble/aggregate.h"
#include "cpu/tree_ensemble/walk.h"

namespace ingot {
namespace {

using namespace trees;

constexpr int64_t kBlock = 64;     // rows that are walked down a tree one after another
constexpr int64_t kFewRows = 256;  // with fewer rows, trees are shared out too
constexpr int64_t kMostParts = 16;
// A fork of the threads takes 2 to 5 microseconds, in which a thread tests about this many nodes.
constexpr int64_t kForkNodes = 1 << 13;
constexpr int64_t kUsualLevels = 8;

// The rows that are used together.
template <typename T>
struct Block {
  const T* rows;
  int64_t count;  // at most kBlock
};

template <typename T>
class Forest {
 public:
  Forest(KernelContext& context, const DLTensor& rows, const DLTensor& scores)
      : aggregate(context.ints()[0]),
        trees_(context.Input(2).shape[0]),
        features_(rows.shape[1]),
        outputs_(scores.shape[1]),
        nodes_(Data<const TreeNode<T>>(context.Input(1)), static_cast<int32_t>(context.Input(1).shape[0]),
               static_cast<uint32_t>(rows.shape[1])),
        roots_(Data<const int32_t>(context.Input(2))),
        starts_(Data<const int32_t>(context.Input(3))),
        leaves_(context.Input(3).shape[0] - 1),
        targets_(Data<const int32_t>(context.Input(4))),
        weights_(Data<const T>(context.Input(5))),
        entries_(context.Input(4).shape[0]),
        tests_(static_cast<Tests>(context.ints()[1])) {}

  const Aggregate aggregate;

  // Adds what the trees of parts [first_part, end_part) of `parts` say about a block to the scores [count, outputs] of
  // each part, which are `stride` apart. Walks of several parts go side by side.
  void Add(int64_t first_part, int64_t end_part, int64_t parts, const Block<T>& block, double* scores,
           int64_t stride) const {
    Walks<T> walks;
    double* scored[kMostWalks];
    const auto finish = [&] {
      Walk(walks);
      for (int64_t i = 0; i < walks.count; ++i) Give(~walks.at[i], scored[i]);
      walks.count = 0;
    };
    for (int64_t part = first_part; part < end_part; ++part, scores += stride) {
      for (int64_t tree = trees_ * part / parts; tree < trees_ * (part + 1) / parts; ++tree) {
        for (int64_t row = 0; row < block.count; ++row) {
          walks.row[walks.count] = block.rows + row * features_;
          walks.at[walks.count] = roots_[tree];
          scored[walks.count] = scores + row * outputs_;
          if (++walks.count == kMostWalks) finish();
        }
      }
    }
    finish();
  }

 private:
  void Walk(Walks<T>& walks) const {
    if (tests_ == Tests::kAny) return nodes_.template Walk<Tests::kAny>(walks);
    if (tests_ == Tests::kLessEqual) return nodes_.template Walk<Tests::kLessEqual>(walks);
    nodes_.template Walk<Tests::kLessEqualOrMissingValues>(walks);
  }

  void Give(int64_t leaf, double* scores) const {
    if (leaf >= leaves_) FailKernel("there is no leaf ", leaf, " of ", leaves_);
    const int64_t last = starts_[leaf + 1];
    const int64_t first = starts_[leaf];
    if (first < 0 || last > entries_) FailKernel("leaf ", leaf, " is out of range");
    for (int64_t j = first; j < last; ++j) {
      const auto target = static_cast<uint32_t>(targets_[j]);
      if (target >= outputs_) FailKernel("leaf ", leaf, " gives to target ", target, " of ", outputs_);
      aggregate.Combine(scores[target], static_cast<double>(weights_[j]));
    }
  }

  int64_t trees_;
  int64_t features_;
  int64_t outputs_;
  Nodes<T> nodes_;
  const int32_t* roots_;
  const int32_t* starts_;
  int64_t leaves_;
  const int32_t* targets_;
  const T* weights_;
  int64_t entries_;
  Tests tests_;
};

template <typename T>
void Run(KernelContext& context, const DLTensor& rows, const DLTensor& scores) {
  const Forest<T> forest(context, rows, scores);
  const int64_t count = rows.shape[0];
  const int64_t outputs = scores.shape[1];
  const int64_t trees = context.Input(2).shape[0];
  // Parts of trees, then of rows: neither depends on the number of threads.
  const int64_t parts = count < kFewRows ? std::clamp<int64_t>(trees / 32, 1, kMostParts) : 1;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const auto sums = context.Scratch<double>(static_cast<size_t>(parts * count * outputs));
  const int64_t work = (trees / parts + 1) * std::min(kBlock, count) * kUsualLevels;  // of a task, in nodes
  context.ParallelFor(parts * blocks, 1 + kForkNodes / work, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t part = begin / blocks;
      const int64_t last = blocks == 1 ? end : part + 1;
      const int64_t row = begin % blocks * kBlock;
      const Block<T> block{Data<const T>(rows) + row * rows.shape[1], std::min(kBlock, count - row)};
      double* mine = sums.data() + (part * count + row) * outputs;
      for (int64_t i = part; i < last; ++i)
        std::fill_n(mine + (i - part) * count * outputs, block.count * outputs, forest.aggregate.Start());
      forest.Add(part, last, parts, block, mine, count * outputs);
      begin += last - part;
    }
  });
  forest.aggregate.Finish(sums.data(), parts, count * outputs, trees, Data<T>(scores));
}

bool Is(const DLTensor& tensor, int32_t rank, std::string_view dtype) {
  return tensor.ndim == rank && DTypeText(tensor.dtype) == dtype;
}

}  // namespace

void TreeEnsemble(KernelContext& context) {
  const DLTensor& rows = context.Input(0);
  const DLTensor& scores = context.Output(0);
  const bool wide = DTypeText(rows.dtype) == "float64";
  const std::string_view number = wide ? "float64" : "float32";
  static_assert(sizeof(TreeNode<float>) == 16 && sizeof(TreeNode<double>) == 24);
  const DLTensor& starts = context.Input(3);
  bool fits = Is(rows, 2, number) && Is(scores, 2, number) && scores.shape[0] == rows.shape[0] &&
              Is(context.Input(1), 2, "int32") && context.Input(1).shape[1] == (wide ? 6 : 4) &&
              Is(context.Input(2), 1, "int32") && Is(starts, 1, "int32") && starts.shape[0] > 0 &&
              Is(context.Input(4), 1, "int32") && Is(context.Input(5), 1, number) &&
              context.Input(4).shape[0] == context.Input(5).shape[0] && rows.shape[1] < (1 << 27) &&
              context.Input(1).shape[0] <= std::numeric_limits<int32_t>::max() && Aggregate::Has(context.ints()[0]) &&
              context.ints()[1] >= 0 && context.ints()[1] <= static_cast<int64_t>(Tests::kLessEqualOrMissingValues);
  // Nodes of float64 rows hold doubles.
  fits = fits && reinterpret_cast<uintptr_t>(Data<const std::byte>(context.Input(1))) % (wide ? 8 : 4) == 0;
  if (!fits)
    FailKernel("a forest cannot give ", DTypeText(scores.dtype), ShapeText(scores), " for rows ", DTypeText(rows.dtype),
               ShapeText(rows));
  if (ElementCount(scores) == 0) return;
  wide ? Run<double>(context, rows, scores) : Run<float>(context, rows, scores);
}

}  // namespace ingot
