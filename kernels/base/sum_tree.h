// The order in which the leaves of a product's inner dimension are added.
//
// The inner dimension K of y = W x is divided into leaves: fixed numbers of columns that depend on
// the layer's shape alone. Leaves [0, n) are added along the binary tree that
// halves their number: node [b, e) is the sum of [b, m) and [m, e) with
// m = b + ceil((e - b) / 2). A rank owns a range of leaves and adds up the largest
// whole subtrees inside it; a collective finishes the same tree from those
// partial sums. So every TP degree adds in one order (docs/collectives.md).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::kernels {

// Leaves [begin, end).
struct LeafRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const LeafRange&) const = default;
};

inline int64_t TreeMiddle(int64_t begin, int64_t end) { return begin + (end - begin + 1) / 2; }

// The maximal subtrees of the tree over [0, leaves) that lie inside owned, in
// order. Empty for an empty range.
std::vector<LeafRange> OwnedSubtrees(int64_t leaves, LeafRange owned);

// How one rank adds its own leaves, in order, with a small stack: after leaf i
// is summed it is pushed; then the top two are added merges times; emit says
// that the top is now a whole subtree of OwnedSubtrees and leaves the stack.
struct LeafStep {
  int64_t column_begin = 0;  // local columns of the leaf
  int64_t column_end = 0;
  int32_t merges = 0;
  bool emit = false;
};

struct LeafSchedule {
  std::vector<LeafStep> steps;  // one a leaf
  int32_t max_depth = 1;        // the stack's largest height
  int32_t subtrees = 0;         // partial sums it emits
};

// Schedule of the leaves [owned.begin, owned.end) of a dimension of `columns`
// global columns, leaf_size in each leaf (the last may have fewer). Local
// column 0 is the first column of the first owned leaf.
LeafSchedule MakeLeafSchedule(int64_t columns, int64_t leaf_size, LeafRange owned);

// Finishes the part of the tree below `root`, a node of it, for one slice of
// elements: nodes are subtrees that cover it, in order, values[i] their partial
// sums, each [count]; out gets the root's sum. out may alias no value. With no
// leaves, zeros.
void FinishTree(LeafRange root, std::span<const LeafRange> nodes,
                std::span<const float* const> values, int64_t count, float* out);

}  // namespace tandem::kernels
