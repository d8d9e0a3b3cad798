// Which rank owns which heads, columns and rows at a given TP degree. Pure arithmetic, the same on
// every rank and in the planner.
//
// Any degree works. Heads, FFN leaves and vocabulary rows are divided as evenly as whole items
// allow; a rank may own no head, leaf or row at all.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/base/sum_tree.h"
#include "parallel/tree_layout.h"

namespace tandem::parallel {

struct ModelShape {
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab = 0;
};

// Columns of a leaf of the down projection.
inline int64_t FfnLeafSize(int64_t intermediate) { return intermediate < 4096 ? 32 : 128; }

// Columns of a leaf of a column-parallel product, whose sums are all local.
inline constexpr int64_t kColumnLeafSize = 128;

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// What one rank owns.
struct RankShard {
  Range heads;                      // query heads; also the leaves of the output projection
  Range kv_heads;                   // that its query heads read; a neighbour may hold one too
  std::vector<int32_t> head_to_kv;  // local query head -> local KV head
  kernels::LeafRange ffn_leaves;
  Range ffn;    // rows of gate and up, columns of down
  Range vocab;  // rows of the head
};

struct ShardPlan {
  int tp = 1;
  ModelShape shape;
  bool cut_by_kv_group = true;  // otherwise attention is cut by query head
  std::vector<RankShard> ranks;
  TreeLayout attention_tree;          // output projection, one leaf a query head
  TreeLayout ffn_tree;                // down projection
  std::vector<int64_t> vocab_widths;  // by rank

  // Attention is cut by KV group or by query head. The rule takes the one whose largest rank is
  // smaller (weights of q, k, v and o). If both are equal it cuts by group, since then no two ranks
  // hold the same KV head.
  static ShardPlan Make(const ModelShape& shape, int tp);
  // The same for ranks of different sizes: rank r gets heads, FFN leaves and vocabulary rows in
  // proportion to weights[r], each 1 to 2^40. The model's results do not depend on the cuts.
  static ShardPlan Make(const ModelShape& shape, std::span<const int64_t> weights);
};

}  // namespace tandem::parallel
