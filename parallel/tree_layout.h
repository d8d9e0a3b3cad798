// Which rank holds which partial sums of a row-parallel product: nodes of the sum tree over
// [0, leaves) (kernels/base/sum_tree.h) that together cover it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/sum_tree.h"

namespace tandem::parallel {

// All partial sums are numbered rank after rank, and those of a rank in the tree's order: rank r
// holds the numbers [rank_begin[r], rank_begin[r + 1]), in memory in this order too.
struct TreeLayout {
  int64_t leaves = 0;
  std::vector<kernels::LeafRange> nodes;  // in the tree's order
  std::vector<int64_t> rank_begin;        // [size + 1]
  std::vector<int64_t> place;             // of number i: its index in nodes

  // owned[r] are rank r's leaves; together they cover [0, leaves) in order.
  static TreeLayout Make(int64_t leaves, std::span<const kernels::LeafRange> owned);
  // One leaf for each rank.
  static TreeLayout OfRanks(int ranks);

  // The layout over groups of ranks, where the ranks of a group first add up what they can among
  // themselves. group_of[rank] is in [0, groups).
  TreeLayout Grouped(std::span<const int> group_of, int groups) const;

  int ranks() const { return static_cast<int>(rank_begin.size()) - 1; }
  int64_t node_count(int rank) const { return rank_begin[rank + 1] - rank_begin[rank]; }
  int64_t max_node_count() const;
};

// For each partial sum i of the rank, values[its index in nodes] = first + i * count.
void PlaceValues(const TreeLayout& layout, int rank, const float* first, int64_t count,
                 std::vector<const float*>& values);

}  // namespace tandem::parallel
