#include "kernels/base/sum_tree.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/check.h"

namespace tandem::kernels {
namespace {

void CollectSubtrees(LeafRange node, LeafRange owned, std::vector<LeafRange>& out) {
  if (node.end <= owned.begin || owned.end <= node.begin || node.size() == 0) return;
  if (owned.begin <= node.begin && node.end <= owned.end) {
    out.push_back(node);
    return;
  }
  const int64_t middle = TreeMiddle(node.begin, node.end);
  CollectSubtrees({node.begin, middle}, owned, out);
  CollectSubtrees({middle, node.end}, owned, out);
}

// Walks the subtree in order; a node's sum is taken right after its last leaf.
void ScheduleSubtree(LeafRange node, int64_t first_leaf, std::vector<LeafStep>& steps) {
  if (node.size() == 1) return;
  const int64_t middle = TreeMiddle(node.begin, node.end);
  ScheduleSubtree({node.begin, middle}, first_leaf, steps);
  ScheduleSubtree({middle, node.end}, first_leaf, steps);
  ++steps[node.end - 1 - first_leaf].merges;
}

// Elements finished at a time: scratch stays on the stack, a step allocates
// nothing.
constexpr int64_t kChunk = 256;

// Adds the tree below `node` for elements [offset, offset + count), taking nodes
// from the front of the given ones.
class TreeFinisher {
 public:
  TreeFinisher(std::span<const LeafRange> nodes, std::span<const float* const> values,
               int64_t offset, int64_t count)
      : nodes_(nodes), values_(values), offset_(offset), count_(count) {}

  // The node's sum: a given one where it lies, else in `scratch`.
  const float* Sum(LeafRange node, float* scratch) {
    TANDEM_CHECK(next_ < nodes_.size());
    if (nodes_[next_] == node) return values_[next_++] + offset_;
    TANDEM_CHECK(node.size() > 1);
    const int64_t middle = TreeMiddle(node.begin, node.end);
    const float* left = Sum({node.begin, middle}, scratch);
    float right_scratch[kChunk];
    const float* right = Sum({middle, node.end}, right_scratch);
    for (int64_t i = 0; i < count_; ++i) scratch[i] = left[i] + right[i];
    return scratch;
  }

  bool done() const { return next_ == nodes_.size(); }

 private:
  std::span<const LeafRange> nodes_;
  std::span<const float* const> values_;
  int64_t offset_;
  int64_t count_;
  size_t next_ = 0;
};

}  // namespace

std::vector<LeafRange> OwnedSubtrees(int64_t leaves, LeafRange owned) {
  std::vector<LeafRange> out;
  CollectSubtrees({0, leaves}, owned, out);
  return out;
}

LeafSchedule MakeLeafSchedule(int64_t columns, int64_t leaf_size, LeafRange owned) {
  TANDEM_CHECK(leaf_size > 0 && owned.begin >= 0 && owned.begin <= owned.end);
  const int64_t leaves = (columns + leaf_size - 1) / leaf_size;
  TANDEM_CHECK(owned.end <= leaves);
  LeafSchedule schedule;
  schedule.steps.resize(owned.size());
  const int64_t first_column = owned.begin * leaf_size;
  for (int64_t leaf = owned.begin; leaf < owned.end; ++leaf) {
    LeafStep& step = schedule.steps[leaf - owned.begin];
    step.column_begin = leaf * leaf_size - first_column;
    step.column_end = std::min((leaf + 1) * leaf_size, columns) - first_column;
  }
  for (const LeafRange& node : OwnedSubtrees(leaves, owned)) {
    ScheduleSubtree(node, owned.begin, schedule.steps);
    schedule.steps[node.end - 1 - owned.begin].emit = true;
    ++schedule.subtrees;
  }
  int32_t depth = 0;
  for (const LeafStep& step : schedule.steps) {
    schedule.max_depth = std::max(schedule.max_depth, ++depth);
    depth -= step.merges;
    if (step.emit) --depth;
  }
  TANDEM_CHECK(depth == 0);
  return schedule;
}

void FinishTree(LeafRange root, std::span<const LeafRange> nodes,
                std::span<const float* const> values, int64_t count, float* out) {
  if (root.size() == 0) {
    std::memset(out, 0, count * sizeof(float));
    return;
  }
  for (int64_t offset = 0; offset < count; offset += kChunk) {
    const int64_t n = std::min(kChunk, count - offset);
    TreeFinisher finisher(nodes, values, offset, n);
    const float* sum = finisher.Sum(root, out + offset);
    if (sum != out + offset) std::memcpy(out + offset, sum, n * sizeof(float));
    TANDEM_CHECK(finisher.done());
  }
}

}  // namespace tandem::kernels
