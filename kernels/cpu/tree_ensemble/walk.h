// Walks down the trees of a forest, several side by side, to hide the latency of loads. Nothing that is read from a
// forest is believed: no walk leaves the tensors, whatever they hold.
#pragma once

#include <cmath>

#include "cpu/tree_ensemble/tree_ensemble.h"

namespace ingot::trees {

constexpr int64_t kTogether = 12;  // walks side by side
constexpr int64_t kMostWalks = 256;

// A walk is of the row that starts at `row` down from node or to leaf `at`.
template <typename T>
struct Walks {
  const T* row[kMostWalks];
  int32_t at[kMostWalks];
  int64_t count = 0;
};

template <Tests kTests, typename T>
bool Passes(const TreeNode<T>& node, T x) {
  if constexpr (kTests == Tests::kLessEqual) return x <= node.value;
  if constexpr (kTests == Tests::kLessEqualOrMissingValues)
    return (x <= node.value) | ((x != x) & ((node.test & 8) != 0));  // no branches: they could not be predicted
  if (std::isnan(x) && (node.test & 8) != 0) return true;
  switch (node.test & 7) {
    case 0:
      return x <= node.value;
    case 1:
      return x < node.value;
    case 2:
      return x >= node.value;
    case 3:
      return x > node.value;
    case 4:
      return x == node.value;
    default:
      return x != node.value;
  }
}

template <typename T>
class Nodes {
 public:
  Nodes(const TreeNode<T>* nodes, int32_t node_count, uint32_t feature_count)
      : nodes_(nodes), count_(node_count), features_(feature_count) {}

  // Takes walks to their leaves. Where a walk ends cannot be predicted, which costs as much as several steps; so the
  // next one takes its place at once. Nodes only lead to later ones, so this ends.
  template <Tests kTests>
  void Walk(Walks<T>& walks) const {
    int64_t begun = 0;
    const auto begin = [&](Step& step) {
      while (begun < walks.count && walks.at[begun] < 0) ++begun;
      if (begun == walks.count) return false;
      if (walks.at[begun] >= count_) FailKernel("a tree starts at node ", walks.at[begun], " of ", count_);
      step = {walks.row[begun], walks.at[begun], static_cast<int32_t>(begun)};
      ++begun;
      return true;
    };
    Step steps[kTogether];
    int64_t together = 0;
    while (together < kTogether && begin(steps[together])) ++together;
    while (together > 0) {
      for (int64_t i = 0; i < together; ++i) {
        Step& step = steps[i];
        const TreeNode<T>& node = nodes_[step.at];
        const uint32_t feature = static_cast<uint32_t>(node.test) >> 4;
        if (feature >= features_) [[unlikely]]
          FailKernel("node ", step.at, " tests feature ", feature, " of ", features_);
        const bool fails = !Passes<kTests>(node, step.row[feature]);
        const int32_t next = node.children[fails];  // a load rather than a branch
        if (next < 0) {
          walks.at[step.walk] = next;
          if (!begin(step)) step = steps[--together];  // which has one step less in this round
          continue;
        }
        if (next <= step.at || next >= count_) [[unlikely]]
          FailKernel("node ", step.at, " leads to ", next);
        step.at = next;
      }
    }
  }

 private:
  struct Step {
    const T* row;
    int32_t at;
    int32_t walk;
  };

  const TreeNode<T>* nodes_;
  int32_t count_;
  uint32_t features_;
};

}  // namespace ingot::trees
