#include "parallel/shard_plan.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace tandem::parallel {
namespace {

Range EvenCut(int64_t items, int rank, int ranks) {
  return {items * rank / ranks, items * (rank + 1) / ranks};
}

Range HeadsOf(const ModelShape& shape, bool by_group, int rank, int tp) {
  if (!by_group) return EvenCut(shape.heads, rank, tp);
  const int64_t group = shape.heads / shape.kv_heads;
  const Range groups = EvenCut(shape.kv_heads, rank, tp);
  return {groups.begin * group, groups.end * group};
}

Range KvHeadsOf(const ModelShape& shape, Range heads) {
  if (heads.size() == 0) return {0, 0};
  const int64_t group = shape.heads / shape.kv_heads;
  return {heads.begin / group, (heads.end - 1) / group + 1};
}

// Rows and columns of q, k, v and o on the largest rank, in heads.
int64_t LargestRank(const ModelShape& shape, bool by_group, int tp) {
  int64_t largest = 0;
  for (int rank = 0; rank < tp; ++rank) {
    const Range heads = HeadsOf(shape, by_group, rank, tp);
    largest = std::max(largest, 2 * heads.size() + 2 * KvHeadsOf(shape, heads).size());
  }
  return largest;
}

}  // namespace

ShardPlan ShardPlan::Make(const ModelShape& shape, int tp) {
  TANDEM_CHECK(tp >= 1 && shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0);
  ShardPlan plan;
  plan.tp = tp;
  plan.shape = shape;
  plan.cut_by_kv_group = LargestRank(shape, true, tp) <= LargestRank(shape, false, tp);
  const int64_t leaf = FfnLeafSize(shape.intermediate);
  const int64_t ffn_leaves = (shape.intermediate + leaf - 1) / leaf;
  std::vector<kernels::LeafRange> head_leaves, ffn_ranges;
  for (int rank = 0; rank < tp; ++rank) {
    RankShard shard;
    shard.heads = HeadsOf(shape, plan.cut_by_kv_group, rank, tp);
    shard.kv_heads = KvHeadsOf(shape, shard.heads);
    const int64_t group = shape.heads / shape.kv_heads;
    for (int64_t h = shard.heads.begin; h < shard.heads.end; ++h) {
      shard.head_to_kv.push_back(static_cast<int32_t>(h / group - shard.kv_heads.begin));
    }
    const Range leaves = EvenCut(ffn_leaves, rank, tp);
    shard.ffn_leaves = {leaves.begin, leaves.end};
    shard.ffn = {std::min(leaves.begin * leaf, shape.intermediate),
                 std::min(leaves.end * leaf, shape.intermediate)};
    shard.vocab = EvenCut(shape.vocab, rank, tp);
    head_leaves.push_back({shard.heads.begin, shard.heads.end});
    ffn_ranges.push_back(shard.ffn_leaves);
    plan.vocab_widths.push_back(shard.vocab.size());
    plan.ranks.push_back(std::move(shard));
  }
  plan.attention_tree = TreeLayout::Make(shape.heads, head_leaves);
  plan.ffn_tree = TreeLayout::Make(ffn_leaves, ffn_ranges);
  return plan;
}

}  // namespace tandem::parallel
