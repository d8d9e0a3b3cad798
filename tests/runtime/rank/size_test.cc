#include "runtime/rank/size.h"

#include <gtest/gtest.h>

#include "runtime/model/kv_cache.h"

namespace tandem::rank {
namespace {

loader::ModelConfig ModelOf(int64_t positions) {
  loader::ModelConfig config;
  config.max_position_embeddings = positions;
  return config;
}

TEST(StepSizes, FollowTheOptions) {
  RankOptions options;
  options.max_num_seqs = 8;
  options.max_batched_tokens = 256;
  const StepSizes sizes = StepSizesOf(options, ModelOf(100));
  EXPECT_EQ(sizes.tokens, 256);
  EXPECT_EQ(sizes.rows, 8);
  EXPECT_EQ(sizes.sequences, 8);
  EXPECT_EQ(sizes.context, 100);
  EXPECT_EQ(sizes.sequence_blocks, (100 + model::kBlockSize - 1) / model::kBlockSize);
  EXPECT_EQ(sizes.useful_blocks, 8 * sizes.sequence_blocks);
}

TEST(StepSizes, MaxModelLenReplacesTheModelsContext) {
  RankOptions options;
  options.max_model_len = 40;
  EXPECT_EQ(StepSizesOf(options, ModelOf(100)).context, 40);
}

TEST(StepSizes, AShortJobHasSmallSteps) {
  RankOptions options;
  options.max_num_seqs = 2;
  options.max_batched_tokens = 512;
  options.max_rows = 100;
  options.used_context = 20;
  const StepSizes sizes = StepSizesOf(options, ModelOf(100));
  EXPECT_EQ(sizes.context, 20);
  EXPECT_EQ(sizes.tokens, 40);
  EXPECT_EQ(sizes.rows, 40);  // no more rows of logits than tokens
  EXPECT_EQ(sizes.sequences, 2);
}

TEST(StepSizes, AJobLongerThanTheContextDoesNotExtendIt) {
  RankOptions options;
  options.used_context = 1000;
  EXPECT_EQ(StepSizesOf(options, ModelOf(100)).context, 100);
}

TEST(KvBlocks, AreWhatTheMemoryHoldsAndNoMoreThanAreUseful) {
  const StepSizes sizes = {.useful_blocks = 10};
  EXPECT_EQ(KvBlocksIn(0, 1000, sizes), 0);
  EXPECT_EQ(KvBlocksIn(999, 1000, sizes), 0);
  EXPECT_EQ(KvBlocksIn(5999, 1000, sizes), 5);
  EXPECT_EQ(KvBlocksIn(1 << 20, 1000, sizes), 10);
}

TEST(KvBlocks, ARankWithoutKvHeadsNeedsNoMemory) {
  EXPECT_EQ(KvBlocksIn(0, 0, {.useful_blocks = 10}), 10);
}

TEST(KvMemory, IsHalfOfWhatThePlanLeavesOfTheHost) {
  const plan::MemoryPlan plan = {
      .weights = 60, .embedding = 40, .workspace = 20, .communication = 20, .preparation = 10};
  EXPECT_EQ(KvMemory(plan, 1150), 500u);
  EXPECT_EQ(KvMemory(plan, 150), 0u);
  EXPECT_EQ(KvMemory(plan, 0), 0u);
}

TEST(KvMemory, IsNineTenthsOfWhatThePlanLeavesOfAGpu) {
  // Communication is in the host's memory.
  const plan::MemoryPlan plan = {
      .weights = 100, .communication = 1000, .on_gpu = true, .graphs = 50, .collectives = 50};
  EXPECT_EQ(KvMemory(plan, 1200), 900u);
}

}  // namespace
}  // namespace tandem::rank
