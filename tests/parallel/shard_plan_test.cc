#include "parallel/shard_plan.h"

#include <gtest/gtest.h>

#include <vector>

namespace tandem::parallel {
namespace {

constexpr ModelShape kLlama8B = {4096, 14336, 32, 8, 128, 128256};

TEST(ShardPlan, EveryItemIsOwnedOnceAtAnyDegree) {
  for (const ModelShape& shape :
       {kLlama8B, ModelShape{64, 172, 8, 4, 8, 512}, ModelShape{96, 200, 6, 2, 24, 131}}) {
    for (int tp = 1; tp <= 16; ++tp) {
      const ShardPlan plan = ShardPlan::Make(shape, tp);
      int64_t head = 0, column = 0, row = 0;
      for (const RankShard& shard : plan.ranks) {
        EXPECT_EQ(shard.heads.begin, head);
        head = shard.heads.end;
        EXPECT_EQ(shard.ffn.begin, column);
        column = shard.ffn.end;
        EXPECT_EQ(shard.vocab.begin, row);
        row = shard.vocab.end;
        ASSERT_EQ(shard.head_to_kv.size(), static_cast<size_t>(shard.heads.size()));
        for (int64_t i = 0; i < shard.heads.size(); ++i) {
          const int64_t global = shard.heads.begin + i;
          EXPECT_EQ(shard.kv_heads.begin + shard.head_to_kv[i],
                    global * shape.kv_heads / shape.heads);
        }
      }
      EXPECT_EQ(head, shape.heads);
      EXPECT_EQ(column, shape.intermediate);
      EXPECT_EQ(row, shape.vocab);
    }
  }
}

TEST(ShardPlan, PartialSumsOfThe8BShape) {
  for (int tp : {2, 4, 8}) {
    const ShardPlan plan = ShardPlan::Make(kLlama8B, tp);
    for (int r = 0; r < tp; ++r) {
      EXPECT_EQ(plan.ffn_tree.node_count(r), 1);
      EXPECT_EQ(plan.attention_tree.node_count(r), 1);
    }
  }
  const auto most = [](const ShardPlan& plan) {
    int64_t nodes = 0;
    for (int r = 0; r < plan.tp; ++r) nodes = std::max(nodes, plan.ffn_tree.node_count(r));
    return nodes;
  };
  EXPECT_EQ(most(ShardPlan::Make(kLlama8B, 3)), 5);
  EXPECT_EQ(most(ShardPlan::Make(kLlama8B, 7)), 6);
}

TEST(ShardPlan, ChoosesTheCutWithTheSmallerLargestRank) {
  // 8 groups over 3 ranks: 3 groups (12 heads, 3 KV) or 11 heads over 3 or 4 KV.
  EXPECT_TRUE(ShardPlan::Make(kLlama8B, 3).cut_by_kv_group);
  // 8 groups over 5: 2 groups are 2*8 + 2*2 = 20; 7 heads over 2 KV heads, or 6
  // over 3, are 18.
  EXPECT_FALSE(ShardPlan::Make(kLlama8B, 5).cut_by_kv_group);
  // More ranks than KV heads: by group half the ranks would own nothing.
  const ShardPlan plan = ShardPlan::Make(kLlama8B, 16);
  EXPECT_FALSE(plan.cut_by_kv_group);
  for (const RankShard& shard : plan.ranks) {
    EXPECT_EQ(shard.heads.size(), 2);
    EXPECT_EQ(shard.kv_heads.size(), 1);
  }
}

TEST(ShardPlan, WeightsCutInProportion) {
  // 24, 24 and 16 GiB: of 8 groups 3, 3 and 2, of 112 leaves 42, 42 and 28.
  const ShardPlan plan = ShardPlan::Make(kLlama8B, std::vector<int64_t>{24, 24, 16});
  const int64_t groups[] = {3, 3, 2}, leaves[] = {42, 42, 28}, vocab[] = {48096, 48096, 32064};
  for (int r = 0; r < 3; ++r) {
    EXPECT_EQ(plan.ranks[r].kv_heads.size(), groups[r]);
    EXPECT_EQ(plan.ranks[r].heads.size(), 4 * groups[r]);
    EXPECT_EQ(plan.ranks[r].ffn_leaves.size(), leaves[r]);
    EXPECT_EQ(plan.ranks[r].vocab.size(), vocab[r]);
    EXPECT_EQ(plan.vocab_widths[r], vocab[r]);
  }
  EXPECT_EQ(plan.ranks[2].heads.end, 32);
  EXPECT_EQ(plan.ranks[2].ffn.end, 14336);
}

TEST(ShardPlan, EqualWeightsAreTheEvenCut) {
  for (int tp = 1; tp <= 9; ++tp) {
    const ShardPlan even = ShardPlan::Make(kLlama8B, tp);
    const ShardPlan weighted = ShardPlan::Make(kLlama8B, std::vector<int64_t>(tp, 1 << 20));
    EXPECT_EQ(even.cut_by_kv_group, weighted.cut_by_kv_group);
    for (int r = 0; r < tp; ++r) {
      EXPECT_EQ(even.ranks[r].heads, weighted.ranks[r].heads);
      EXPECT_EQ(even.ranks[r].ffn, weighted.ranks[r].ffn);
      EXPECT_EQ(even.ranks[r].vocab, weighted.ranks[r].vocab);
    }
  }
}

}  // namespace
}  // namespace tandem::parallel
