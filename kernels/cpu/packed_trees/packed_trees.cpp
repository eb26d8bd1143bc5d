#include "cpu/packed_trees/packed_trees.h"

#include <algorithm>
#include <limits>

#include "cpu/packed_trees/packed.h"
#include "cpu/tree_ensemble/aggregate.h"

namespace ingot {
namespace {

using namespace trees;

constexpr int64_t kFewRows = 256;  // with fewer rows, trees are shared out too
constexpr int64_t kMostParts = 16;
constexpr int64_t kLeastColumns =
    4;  // fewer rows than these are walked down a tree faster than all its nodes are tested
// Bringing a row into columns costs about as much as a walk down a tree for every four features.
constexpr int64_t kFeaturesPerTree = 4;
// A fork of the threads takes 2 to 5 microseconds, in which a thread tests about this many nodes.
constexpr int64_t kForkNodes = 1 << 13;
constexpr int64_t kUsualLevels = 8;
constexpr float kNothing = 0.0f;  // what is read, but not used, of rows without features

// The rows that are used together.
struct Block {
  const float* rows;
  int64_t count;         // at most kBlock
  const float* columns;  // [features, kBlock], or nullptr
};

class Forest {
 public:
  Forest(KernelContext& context, const DLTensor& rows, const DLTensor& scores, const Evaluator& evaluator)
      : aggregate(context.ints()[0]),
        trees_(context.Input(2).shape[0]),
        features_(rows.shape[1]),
        outputs_(scores.shape[1]),
        packed_{Data<const PackedNode>(context.Input(1)), static_cast<uint32_t>(context.Input(1).shape[0]),
                static_cast<uint32_t>(rows.shape[1]), context.ints()[1] != 0},
        roots_(Data<const int32_t>(context.Input(2))),
        evaluator_(evaluator) {
    if (context.input_count() <= 3) return;
    full_ = Data<const FullTree>(context.Input(3));
    full_nodes_ = Data<const FullNode>(context.Input(4));
    full_values_ = Data<const float>(context.Input(5));
    full_count_ = context.Input(5).shape[0];
  }

  const Aggregate aggregate;

  bool HasFull() const { return full_ != nullptr; }
  bool KnowsMissing() const { return packed_.missing; }

  // Refuses full trees that are not what full.h says.
  void CheckFull() const {
    uint32_t most = 0;
    for (int64_t i = 0; i < full_count_; ++i) most = std::max(most, static_cast<uint32_t>(full_nodes_[i].feature));
    if (most >= static_cast<uint32_t>(features_)) FailKernel("a node tests feature ", most, " of ", features_);
    for (int64_t tree = 0; tree < trees_; ++tree) {
      const FullTree& found = full_[tree];
      if (found.levels < 0 || found.levels > kMostLevels || found.offset < 0 ||
          found.offset + (int64_t{1} << found.levels) > full_count_ || found.target < 0 || found.target >= outputs_)
        FailKernel("tree ", tree, " has ", found.levels, " levels at ", found.offset, " of ", full_count_,
                   " for target ", found.target, " of ", outputs_);
    }
  }

  // Adds what trees [first, last) say about a block to scores [count, outputs].
  void Add(int64_t first, int64_t last, const Block& block, double* scores) const {
    for (; first < last; first += kChunk) {
      const int64_t end = std::min(last, first + kChunk);
      if (block.columns == nullptr) {
        AddWalks(roots_ + first, end - first, block, scores);
        continue;
      }
      int32_t roots[kChunk];  // of trees that are not used in full
      int64_t count = 0;
      for (int64_t tree = first; tree < end; ++tree) {
        if (full_[tree].levels > 0 && full_[tree].levels <= evaluator_.most_levels) {
          AddFull(full_[tree], block, scores);
        } else {
          roots[count++] = roots_[tree];
        }
      }
      AddWalks(roots, count, block, scores);
    }
  }

 private:
  // Adds what `count` trees, at most kChunk, say about a block.
  void AddWalks(const int32_t* roots, int64_t count, const Block& block, double* scores) const {
    if (count == 0) return;
    Leaves leaves;
    for (int64_t row = 0; row < block.count; ++row, scores += outputs_) {
      const float* x = features_ > 0 ? block.rows + row * features_ : &kNothing;
      if (!evaluator_.walk(packed_, x, roots, count, leaves)) WalkInStep(packed_, x, roots, count, leaves);
      Give(leaves, count, scores);
    }
  }

  void Give(const Leaves& leaves, int64_t count, double* scores) const {
    uint32_t most = 0;
    for (int64_t i = 0; i < count; ++i) most = std::max(most, leaves.target[i]);
    if (most >= static_cast<uint32_t>(outputs_)) FailKernel("a leaf gives to target ", most, " of ", outputs_);
    if (outputs_ == 1 && aggregate.Adds()) {
      constexpr int64_t kSums = 8;  // side by side
      double sums[kSums] = {};
      for (int64_t i = 0; i < count; ++i) sums[i % kSums] += static_cast<double>(leaves.value[i]);
      for (const double sum : sums) scores[0] += sum;
      return;
    }
    for (int64_t i = 0; i < count; ++i)
      aggregate.Combine(scores[leaves.target[i]], static_cast<double>(leaves.value[i]));
  }

  // Adds what a tree that is given in full says about a block with columns to scores [count, outputs].
  void AddFull(const FullTree& tree, const Block& block, double* scores) const {
    float values[kBlock];
    evaluator_.full(full_nodes_ + tree.offset, full_values_ + tree.offset, tree.levels, block.columns, block.count,
                    values);
    for (int64_t row = 0; row < block.count; ++row)
      aggregate.Combine(scores[row * outputs_ + tree.target], static_cast<double>(values[row]));
  }

  int64_t trees_;
  int64_t features_;
  int64_t outputs_;
  Packed packed_;
  const int32_t* roots_;
  const Evaluator& evaluator_;
  const FullTree* full_ = nullptr;
  const FullNode* full_nodes_ = nullptr;
  const float* full_values_ = nullptr;
  int64_t full_count_ = 0;
};

bool AnyMissing(const float* values, int64_t count) {
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

void Run(KernelContext& context, const DLTensor& rows, const DLTensor& scores, const Evaluator& evaluator) {
  const Forest forest(context, rows, scores, evaluator);
  const int64_t count = rows.shape[0];
  const int64_t features = rows.shape[1];
  const int64_t outputs = scores.shape[1];
  const int64_t trees = context.Input(2).shape[0];
  // Parts of trees, then of rows: neither depends on the number of threads.
  const int64_t chunks = (trees + kChunk - 1) / kChunk;
  const int64_t parts = count < kFewRows ? std::clamp<int64_t>(chunks, 1, kMostParts) : 1;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const bool turned = forest.HasFull() && count >= kLeastColumns && features <= kFeaturesPerTree * trees;
  if (turned) forest.CheckFull();
  const auto columns = context.Scratch<float>(static_cast<size_t>(turned ? blocks * features * kBlock : 0));
  const auto prepared = context.Scratch<Block>(static_cast<size_t>(blocks));
  context.ParallelFor(blocks, 1 + kForkNodes / (1 + features * kBlock), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const float* from = Data<const float>(rows) + block * kBlock * features;
      const int64_t some = std::min(kBlock, count - block * kBlock);
      const bool full = turned && !(forest.KnowsMissing() && AnyMissing(from, some * features));
      float* to = full ? columns.data() + block * features * kBlock : nullptr;
      if (full) Turn(from, some, features, to);
      prepared[block] = {from, some, to};
    }
  });
  const auto sums = context.Scratch<double>(static_cast<size_t>(parts * count * outputs));
  const int64_t work = (trees / parts + 1) * std::min(kBlock, count) * kUsualLevels;  // of a task, in nodes
  context.ParallelFor(parts * blocks, 1 + kForkNodes / work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / blocks;
      const Block& block = prepared[task % blocks];
      double* mine = sums.data() + (part * count + task % blocks * kBlock) * outputs;
      std::fill_n(mine, block.count * outputs, forest.aggregate.Start());
      forest.Add(chunks * part / parts * kChunk, std::min(trees, chunks * (part + 1) / parts * kChunk), block, mine);
    }
  });
  forest.aggregate.Finish(sums.data(), parts, count * outputs, trees, Data<float>(scores));
}

bool Is(const DLTensor& tensor, int32_t rank, std::string_view dtype) {
  return tensor.ndim == rank && DTypeText(tensor.dtype) == dtype;
}

// Whether the inputs that give trees in full are there as they should be, or not at all.
bool FullFits(const KernelContext& context) {
  const size_t count = context.input_count();
  if (count <= 3) return true;
  if (count != 6) return false;
  for (size_t i = 3; i < 6; ++i) {
    if (!context.OptionalInput(i)) return false;
  }
  const DLTensor& nodes = context.Input(4);
  const DLTensor& values = context.Input(5);
  return Is(context.Input(3), 2, "int32") && context.Input(3).shape[0] == context.Input(2).shape[0] &&
         context.Input(3).shape[1] == 3 && Is(nodes, 2, "int32") && nodes.shape[1] == 2 && Is(values, 1, "float32") &&
         values.shape[0] == nodes.shape[0];
}

void CheckAndRun(KernelContext& context, const Evaluator& evaluator) {
  static_assert(sizeof(PackedNode) == 8 && sizeof(FullTree) == 12 && sizeof(FullNode) == 8);
  const DLTensor& rows = context.Input(0);
  const DLTensor& scores = context.Output(0);
  const DLTensor& nodes = context.Input(1);
  const bool fits = Is(rows, 2, "float32") && Is(scores, 2, "float32") && scores.shape[0] == rows.shape[0] &&
                    Is(nodes, 2, "int32") && nodes.shape[1] == 2 && Is(context.Input(2), 1, "int32") &&
                    rows.shape[1] <= std::numeric_limits<int32_t>::max() &&
                    nodes.shape[0] <= std::numeric_limits<int32_t>::max() - (1 << PackedNode::kChildBits) &&
                    Aggregate::Has(context.ints()[0]) && FullFits(context);
  if (!fits)
    FailKernel("a forest cannot give ", DTypeText(scores.dtype), ShapeText(scores), " for rows ", DTypeText(rows.dtype),
               ShapeText(rows));
  if (ElementCount(scores) == 0) return;
  Run(context, rows, scores, evaluator);
}

}  // namespace

void PackedTrees(KernelContext& context) { CheckAndRun(context, kPortable); }

#if defined(__x86_64__)
void PackedTreesAvx2(KernelContext& context) { CheckAndRun(context, kAvx2); }
void PackedTreesAvx512(KernelContext& context) { CheckAndRun(context, kAvx512); }
#elif defined(__aarch64__)
void PackedTreesNeon(KernelContext& context) { CheckAndRun(context, kNeon); }
#endif

}  // namespace ingot
