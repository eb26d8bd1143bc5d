#include "cpu/tree_ensemble/tree_ensemble.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cpu/tree_ensemble/full.h"
#include "cpu/tree_ensemble/walk.h"

namespace ingot {
namespace {

using namespace trees;

enum Aggregate : int64_t { kAverage, kSum, kMinimum, kMaximum };

constexpr int64_t kFewRows = 256;  // with fewer rows, trees are shared out too
constexpr int64_t kMostParts = 16;
constexpr int64_t kLeastColumns =
    4;                         // fewer rows than these are walked down a tree faster than all its nodes are tested
constexpr int64_t kAlike = 8;  // trees of as many levels that a row is walked down side by side
// Bringing a row into columns costs about as much as a walk down a tree for every four features.
constexpr int64_t kFeaturesPerTree = 4;
// A fork of the threads takes 2 to 5 microseconds, in which a thread tests about this many nodes.
constexpr int64_t kForkNodes = 1 << 13;
constexpr int64_t kUsualLevels = 8;

// The rows that are used together.
template <typename T>
struct Block {
  const T* rows;
  int64_t count;         // at most kBlock
  const float* columns;  // [features, kBlock], or nullptr
  bool missing;          // whether a value is NaN, or may be
};

template <typename T>
class Forest {
 public:
  Forest(KernelContext& context, const DLTensor& rows, const DLTensor& scores, const Evaluator& evaluator)
      : trees_(context.Input(2).shape[0]),
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
        tests_(static_cast<Tests>(context.ints()[1])),
        aggregate_(static_cast<Aggregate>(context.ints()[0])),
        evaluator_(evaluator) {
    if (context.input_count() <= 6) return;
    full_ = Data<const FullTree>(context.Input(6));
    full_nodes_ = Data<const FullNode>(context.Input(7));
    full_values_ = Data<const float>(context.Input(8));
    full_count_ = context.Input(8).shape[0];
  }

  bool HasFull() const { return full_ != nullptr; }
  bool KnowsMissing() const { return tests_ == Tests::kLessEqualOrMissingValues; }
  double Start() const {
    return aggregate_ == kMinimum   ? std::numeric_limits<double>::infinity()
           : aggregate_ == kMaximum ? -std::numeric_limits<double>::infinity()
                                    : 0.0;
  }

  // Refuses full trees that are not what full.h says.
  void CheckFull() const {
    uint32_t most = 0;
    for (int64_t i = 0; i < full_count_; ++i) most = std::max(most, static_cast<uint32_t>(full_nodes_[i].feature));
    if (most >= static_cast<uint32_t>(features_)) FailKernel("a node tests feature ", most, " of ", features_);
    for (int64_t tree = 0; tree < trees_; ++tree) {
      if (full_[tree].levels != 0) CheckTree(tree);
    }
  }

  // Adds what the trees of parts [first_part, end_part) of `parts` say about a block to the scores [count, outputs] of
  // each part, which are `stride` apart. Walks of several parts go side by side.
  void Add(int64_t first_part, int64_t end_part, int64_t parts, const Block<T>& block, double* scores,
           int64_t stride) const {
    Walks<T> walks;
    double* scored[kMostWalks];
    const auto finish = [&] {
      Walk(walks, block.missing);
      for (int64_t i = 0; i < walks.count; ++i) Give(~walks.at[i], scored[i]);
      walks.count = 0;
    };
    for (int64_t part = first_part; part < end_part; ++part, scores += stride)
      AddPart(trees_ * part / parts, trees_ * (part + 1) / parts, block, scores, walks, scored, finish);
    finish();
  }

  // Adds what trees [first, last) say about a block to scores, or to the walks that are still to go.
  template <typename Finish>
  void AddPart(int64_t first, int64_t last, const Block<T>& block, double* scores, Walks<T>& walks,
               double* (&scored)[kMostWalks], const Finish& finish) const {
    bool apart = false;  // whether trees that are given in full have been walked down already
    if constexpr (std::is_same_v<T, float>) {
      apart = block.columns == nullptr && full_ != nullptr && !block.missing;
      if (apart) AddAlike(first, last, block, scores);
    }
    for (int64_t tree = first; tree < last; ++tree) {
      if constexpr (std::is_same_v<T, float>) {
        if (apart && full_[tree].levels != 0) continue;
        if (block.columns != nullptr && full_[tree].levels > 0 && full_[tree].levels <= evaluator_.most_levels &&
            !block.missing) {
          finish();
          AddFull(full_[tree], block, scores);
          continue;
        }
      }
      for (int64_t row = 0; row < block.count; ++row) {
        walks.row[walks.count] = block.rows + row * features_;
        walks.at[walks.count] = roots_[tree];
        scored[walks.count] = scores + row * outputs_;
        if (++walks.count == kMostWalks) finish();
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
  void Walk(Walks<T>& walks, bool missing) const {
    if (tests_ == Tests::kAny) return nodes_.template Walk<Tests::kAny>(walks);
    if (KnowsMissing() && missing) return nodes_.template Walk<Tests::kLessEqualOrMissingValues>(walks);
    nodes_.template Walk<Tests::kLessEqual>(walks);
  }

  void CheckTree(int64_t tree) const {
    const FullTree& found = full_[tree];
    if (found.levels < 0 || found.levels > kMostLevels || found.offset < 0 ||
        found.offset + (int64_t{1} << found.levels) > full_count_ || found.target < 0 || found.target >= outputs_)
      FailKernel("tree ", tree, " has ", found.levels, " levels at ", found.offset, " of ", full_count_, " for target ",
                 found.target, " of ", outputs_);
  }

  // Adds what those of trees [first, last) that are given in full say about a block to scores [count, outputs].
  void AddAlike(int64_t first, int64_t last, const Block<float>& block, double* scores) const {
    const FullTree* alike[kAlike];
    int64_t count = 0;
    const auto finish = [&] {
      if (count == 0) return;
      for (int64_t i = count; i < kAlike; ++i) alike[i] = alike[0];
      for (int64_t row = 0; row < block.count; ++row)
        AddAlike(alike, count, block.rows + row * features_, scores + row * outputs_);
      count = 0;
    };
    for (int64_t tree = first; tree < last; ++tree) {
      if (full_[tree].levels == 0) continue;
      CheckTree(tree);
      if (count == kAlike || (count > 0 && alike[0]->levels != full_[tree].levels)) finish();
      alike[count++] = full_ + tree;
    }
    finish();
  }

  // Adds what `count` trees of as many levels say about a row to its scores. They are walked down in step, without a
  // branch that could not be predicted.
  void AddAlike(const FullTree* const (&alike)[kAlike], int64_t count, const float* row, double* scores) const {
    int64_t at[kAlike];
    int64_t offsets[kAlike];
    for (int i = 0; i < kAlike; ++i) {
      offsets[i] = alike[i]->offset;
      at[i] = offsets[i] + 1;
    }
    const int32_t levels = alike[0]->levels;
    for (int32_t level = 0; level < levels; ++level) {
#pragma GCC unroll 8
      for (int i = 0; i < kAlike; ++i) {
        const FullNode& node = full_nodes_[at[i]];
        const auto feature = static_cast<uint32_t>(node.feature);
        if (feature >= features_) [[unlikely]]
          FailKernel("a node tests feature ", feature, " of ", features_);
        at[i] = 2 * at[i] - offsets[i] + (row[feature] <= node.limit ? 0 : 1);
      }
    }
    for (int64_t i = 0; i < count; ++i)
      Combine(scores[alike[i]->target], static_cast<double>(full_values_[at[i] - (int64_t{1} << levels)]));
  }

  // Adds what a tree that is given in full says about a block with columns to scores [count, outputs].
  void AddFull(const FullTree& tree, const Block<float>& block, double* scores) const {
    float values[kBlock];
    evaluator_.run(full_nodes_ + tree.offset, full_values_ + tree.offset, tree.levels, block.columns, block.count,
                   values);
    for (int64_t row = 0; row < block.count; ++row) Combine(scores[row * outputs_ + tree.target], values[row]);
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
  Aggregate aggregate_;
  const Evaluator& evaluator_;
  const FullTree* full_ = nullptr;
  const FullNode* full_nodes_ = nullptr;
  const float* full_values_ = nullptr;
  int64_t full_count_ = 0;
};

template <typename T>
bool AnyMissing(const T* values, int64_t count) {
  bool found = false;
  for (int64_t i = 0; i < count; ++i) found |= values[i] != values[i];
  return found;
}

// Turns rows [count, features] into columns [features, kBlock].
void Turn(const float* rows, int64_t count, int64_t features, float* columns) {
  for (int64_t row = 0; row < kBlock; ++row) {
    for (int64_t f = 0; f < features; ++f) columns[f * kBlock + row] = row < count ? rows[row * features + f] : 0.0f;
  }
}

template <typename T>
void Run(KernelContext& context, const DLTensor& rows, const DLTensor& scores, const Evaluator& evaluator) {
  const Forest<T> forest(context, rows, scores, evaluator);
  const int64_t count = rows.shape[0];
  const int64_t features = rows.shape[1];
  const int64_t outputs = scores.shape[1];
  const int64_t trees = context.Input(2).shape[0];
  // Parts of trees, then of rows: neither depends on the number of threads.
  const int64_t parts = count < kFewRows ? std::clamp<int64_t>(trees / 32, 1, kMostParts) : 1;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const bool turned =
      std::is_same_v<T, float> && forest.HasFull() && count >= kLeastColumns && features <= kFeaturesPerTree * trees;
  if (turned) forest.CheckFull();
  const auto columns = context.Scratch<float>(static_cast<size_t>(turned ? blocks * features * kBlock : 0));
  const auto prepared = context.Scratch<Block<T>>(static_cast<size_t>(blocks));
  context.ParallelFor(blocks, 1 + kForkNodes / (1 + features * kBlock), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const T* from = Data<const T>(rows) + block * kBlock * features;
      const int64_t some = std::min(kBlock, count - block * kBlock);
      float* to = turned ? columns.data() + block * features * kBlock : nullptr;
      if constexpr (std::is_same_v<T, float>) {
        if (turned) Turn(from, some, features, to);
      }
      prepared[block] = {from, some, to, forest.KnowsMissing() && AnyMissing(from, some * features)};
    }
  });
  const auto sums = context.Scratch<double>(static_cast<size_t>(parts * count * outputs));
  const int64_t work = (trees / parts + 1) * std::min(kBlock, count) * kUsualLevels;  // of a task, in nodes
  context.ParallelFor(parts * blocks, 1 + kForkNodes / work, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t part = begin / blocks;
      const int64_t last = blocks == 1 ? end : part + 1;
      const Block<T>& block = prepared[begin % blocks];
      double* mine = sums.data() + (part * count + begin % blocks * kBlock) * outputs;
      for (int64_t i = part; i < last; ++i)
        std::fill_n(mine + (i - part) * count * outputs, block.count * outputs, forest.Start());
      forest.Add(part, last, parts, block, mine, count * outputs);
      begin += last - part;
    }
  });
  T* to = Data<T>(scores);
  for (int64_t i = 0; i < count * outputs; ++i) {
    double score = sums[i];
    for (int64_t part = 1; part < parts; ++part) forest.Combine(score, sums[part * count * outputs + i]);
    to[i] = forest.Finish(score, trees);
  }
}

bool Is(const DLTensor& tensor, int32_t rank, std::string_view dtype) {
  return tensor.ndim == rank && DTypeText(tensor.dtype) == dtype;
}

// Whether the inputs that give trees in full are there as they should be, or not at all.
bool FullFits(const KernelContext& context, bool wide) {
  const size_t count = context.input_count();
  if (count <= 6) return true;
  if (count != 9 || wide) return false;
  if (!context.OptionalInput(6) || !context.OptionalInput(7) || !context.OptionalInput(8)) return false;
  const DLTensor& nodes = context.Input(7);
  const DLTensor& values = context.Input(8);
  return Is(context.Input(6), 2, "int32") && context.Input(6).shape[0] == context.Input(2).shape[0] &&
         context.Input(6).shape[1] == 3 && Is(nodes, 2, "int32") && nodes.shape[1] == 2 && Is(values, 1, "float32") &&
         values.shape[0] == nodes.shape[0];
}

void Run(KernelContext& context, const Evaluator& evaluator) {
  const DLTensor& rows = context.Input(0);
  const DLTensor& scores = context.Output(0);
  const bool wide = DTypeText(rows.dtype) == "float64";
  const std::string_view number = wide ? "float64" : "float32";
  static_assert(sizeof(TreeNode<float>) == 16 && sizeof(TreeNode<double>) == 24);
  static_assert(sizeof(FullTree) == 12 && sizeof(FullNode) == 8);
  const DLTensor& starts = context.Input(3);
  bool fits = Is(rows, 2, number) && Is(scores, 2, number) && scores.shape[0] == rows.shape[0] &&
              Is(context.Input(1), 2, "int32") && context.Input(1).shape[1] == (wide ? 6 : 4) &&
              Is(context.Input(2), 1, "int32") && Is(starts, 1, "int32") && starts.shape[0] > 0 &&
              Is(context.Input(4), 1, "int32") && Is(context.Input(5), 1, number) &&
              context.Input(4).shape[0] == context.Input(5).shape[0] && rows.shape[1] < (1 << 27) &&
              context.Input(1).shape[0] <= std::numeric_limits<int32_t>::max() && context.ints()[0] >= kAverage &&
              context.ints()[0] <= kMaximum && context.ints()[1] >= 0 &&
              context.ints()[1] <= static_cast<int64_t>(Tests::kLessEqualOrMissingValues) && FullFits(context, wide);
  // Nodes of float64 rows hold doubles.
  fits = fits && reinterpret_cast<uintptr_t>(Data<const std::byte>(context.Input(1))) % (wide ? 8 : 4) == 0;
  if (!fits)
    FailKernel("a forest cannot give ", DTypeText(scores.dtype), ShapeText(scores), " for rows ", DTypeText(rows.dtype),
               ShapeText(rows));
  if (ElementCount(scores) == 0) return;
  wide ? Run<double>(context, rows, scores, evaluator) : Run<float>(context, rows, scores, evaluator);
}

}  // namespace

void TreeEnsemble(KernelContext& context) { Run(context, kPortable); }

#if defined(__x86_64__)
void TreeEnsembleAvx2(KernelContext& context) { Run(context, kAvx2); }
void TreeEnsembleAvx512(KernelContext& context) { Run(context, kAvx512); }
#elif defined(__aarch64__)
void TreeEnsembleNeon(KernelContext& context) { Run(context, kNeon); }
#endif

}  // namespace ingot
