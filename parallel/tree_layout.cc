#include "parallel/tree_layout.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace tandem::parallel {
namespace {

using kernels::LeafRange;

struct OwnedNode {
  LeafRange node;
  int group = 0;
};

// The group that owns all of `node`. -1 where several groups own parts of it: then its largest
// subtrees of one group each have been added to `out`. The nodes from `next` on cover `node`.
int GroupNodes(LeafRange node, std::span<const LeafRange> nodes, std::span<const int> node_group,
               size_t& next, std::vector<OwnedNode>& out) {
  TANDEM_CHECK(next < nodes.size());
  if (nodes[next] == node) return node_group[next++];
  TANDEM_CHECK(node.size() > 1);
  const int64_t middle = kernels::TreeMiddle(node.begin, node.end);
  const int left = GroupNodes({node.begin, middle}, nodes, node_group, next, out);
  const int right = GroupNodes({middle, node.end}, nodes, node_group, next, out);
  if (left >= 0 && left == right) return left;
  if (left >= 0) out.push_back({{node.begin, middle}, left});
  if (right >= 0) out.push_back({{middle, node.end}, right});
  return -1;
}

}  // namespace

TreeLayout TreeLayout::OfRanks(int ranks) {
  std::vector<LeafRange> owned;
  for (int r = 0; r < ranks; ++r) owned.push_back({r, r + 1});
  return Make(ranks, owned);
}

TreeLayout TreeLayout::Make(int64_t leaves, std::span<const LeafRange> owned) {
  TreeLayout layout;
  layout.leaves = leaves;
  layout.rank_begin.push_back(0);
  for (const LeafRange& range : owned) {
    for (const LeafRange& node : kernels::OwnedSubtrees(leaves, range)) {
      layout.place.push_back(static_cast<int64_t>(layout.nodes.size()));
      layout.nodes.push_back(node);
    }
    layout.rank_begin.push_back(static_cast<int64_t>(layout.nodes.size()));
  }
  return layout;
}

TreeLayout TreeLayout::Grouped(std::span<const int> group_of, int groups) const {
  TANDEM_CHECK(static_cast<int>(group_of.size()) == ranks());
  TreeLayout grouped;
  grouped.leaves = leaves;
  grouped.rank_begin.push_back(0);
  if (leaves > 0) {
    std::vector<int> node_group(nodes.size());
    for (int r = 0; r < ranks(); ++r) {
      for (int64_t i = rank_begin[r]; i < rank_begin[r + 1]; ++i) {
        node_group[place[i]] = group_of[r];
      }
    }
    std::vector<OwnedNode> owned;
    size_t next = 0;
    const int root = GroupNodes({0, leaves}, nodes, node_group, next, owned);
    if (root >= 0) owned.push_back({{0, leaves}, root});
    std::sort(owned.begin(), owned.end(),
              [](const OwnedNode& a, const OwnedNode& b) { return a.node.begin < b.node.begin; });
    for (const OwnedNode& node : owned) grouped.nodes.push_back(node.node);
    for (int g = 0; g < groups; ++g) {
      for (size_t i = 0; i < owned.size(); ++i) {
        if (owned[i].group == g) grouped.place.push_back(static_cast<int64_t>(i));
      }
      grouped.rank_begin.push_back(static_cast<int64_t>(grouped.place.size()));
    }
  } else {
    grouped.rank_begin.resize(groups + 1, 0);
  }
  return grouped;
}

int64_t TreeLayout::max_node_count() const {
  int64_t most = 0;
  for (int r = 0; r < ranks(); ++r) most = std::max(most, node_count(r));
  return most;
}

void PlaceValues(const TreeLayout& layout, int rank, const float* first, int64_t count,
                 std::vector<const float*>& values) {
  values.resize(layout.nodes.size());
  for (int64_t i = 0; i < layout.node_count(rank); ++i) {
    values[layout.place[layout.rank_begin[rank] + i]] = first + i * count;
  }
}

}  // namespace tandem::parallel
