#include "parallel/shard_plan.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace tandem::parallel {
namespace {

// Divides items between ranks in proportion to their weights. Uses cumulative sums of the weights,
// so that equal weights divide evenly.
class Cut {
 public:
  explicit Cut(std::span<const int64_t> weights) : sums_(weights.size() + 1, 0) {
    for (size_t r = 0; r < weights.size(); ++r) {
      TANDEM_CHECK(weights[r] >= 1 && weights[r] <= kMaxWeight);
      sums_[r + 1] = sums_[r] + weights[r];
    }
  }
  int ranks() const { return static_cast<int>(sums_.size()) - 1; }
  int64_t weight(int rank) const { return sums_[rank + 1] - sums_[rank]; }
  Range Of(int64_t items, int rank) const {
    return {Begin(items, sums_[rank]), Begin(items, sums_[rank + 1])};
  }

 private:
  static constexpr int64_t kMaxWeight = int64_t{1} << 40;
  int64_t Begin(int64_t items, int64_t sum) const {
    return static_cast<int64_t>(static_cast<__int128>(items) * sum / sums_.back());
  }
  std::vector<int64_t> sums_;
};

Range HeadsOf(const ModelShape& shape, bool by_group, int rank, const Cut& cut) {
  if (!by_group) return cut.Of(shape.heads, rank);
  const int64_t group = shape.heads / shape.kv_heads;
  const Range groups = cut.Of(shape.kv_heads, rank);
  return {groups.begin * group, groups.end * group};
}

Range KvHeadsOf(const ModelShape& shape, Range heads) {
  if (heads.size() == 0) return {0, 0};
  const int64_t group = shape.heads / shape.kv_heads;
  return {heads.begin / group, (heads.end - 1) / group + 1};
}

// The rows and columns of q, k, v and o, in heads, of the rank that is largest in proportion to its
// weight.
double LargestRank(const ModelShape& shape, bool by_group, const Cut& cut) {
  double largest = 0;
  for (int rank = 0; rank < cut.ranks(); ++rank) {
    const Range heads = HeadsOf(shape, by_group, rank, cut);
    const int64_t size = 2 * heads.size() + 2 * KvHeadsOf(shape, heads).size();
    largest = std::max(largest, static_cast<double>(size) / static_cast<double>(cut.weight(rank)));
  }
  return largest;
}

}  // namespace

ShardPlan ShardPlan::Make(const ModelShape& shape, int tp) {
  TANDEM_CHECK(tp >= 1);
  return Make(shape, std::vector<int64_t>(tp, 1));
}

ShardPlan ShardPlan::Make(const ModelShape& shape, std::span<const int64_t> weights) {
  const int tp = static_cast<int>(weights.size());
  TANDEM_CHECK(tp >= 1 && shape.kv_heads >= 1 && shape.heads % shape.kv_heads == 0);
  ShardPlan plan;
  plan.tp = tp;
  plan.shape = shape;
  const Cut cut(weights);
  plan.cut_by_kv_group = LargestRank(shape, true, cut) <= LargestRank(shape, false, cut);
  const int64_t leaf = FfnLeafSize(shape.intermediate);
  const int64_t ffn_leaves = (shape.intermediate + leaf - 1) / leaf;
  std::vector<kernels::LeafRange> head_leaves, ffn_ranges;
  for (int rank = 0; rank < tp; ++rank) {
    RankShard shard;
    shard.heads = HeadsOf(shape, plan.cut_by_kv_group, rank, cut);
    shard.kv_heads = KvHeadsOf(shape, shard.heads);
    const int64_t group = shape.heads / shape.kv_heads;
    for (int64_t h = shard.heads.begin; h < shard.heads.end; ++h) {
      shard.head_to_kv.push_back(static_cast<int32_t>(h / group - shard.kv_heads.begin));
    }
    const Range leaves = cut.Of(ffn_leaves, rank);
    shard.ffn_leaves = {leaves.begin, leaves.end};
    shard.ffn = {std::min(leaves.begin * leaf, shape.intermediate),
                 std::min(leaves.end * leaf, shape.intermediate)};
    shard.vocab = cut.Of(shape.vocab, rank);
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
