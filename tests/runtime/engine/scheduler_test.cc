#include "runtime/engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <numeric>

namespace tandem::engine {
namespace {

using ::testing::ElementsAre;

EngineConfig Config(int32_t blocks, int32_t budget, int32_t max_seqs = 8) {
  EngineConfig config;
  config.vocab_size = 1000;
  config.max_model_len = 512;
  config.num_blocks = blocks;
  config.max_batched_tokens = budget;
  config.max_num_seqs = max_seqs;
  return config;
}

class SchedulerTest : public testing::Test {
 protected:
  void Make(const EngineConfig& config) { scheduler_ = std::make_unique<Scheduler>(config); }

  // A sequence whose prompt is first, first + 1, ...
  Sequence* Add(int32_t prompt_tokens, int32_t first = 0, RequestId request = 0,
                int32_t choice = 0) {
    std::vector<int32_t> prompt(prompt_tokens);
    std::iota(prompt.begin(), prompt.end(), first);
    const uint64_t arrival = sequences_.size() + 1;
    sequences_.push_back(std::make_unique<Sequence>(request == 0 ? arrival : request, choice,
                                                    arrival, prompt, prompt_tokens + 100));
    scheduler_->Add(sequences_.back().get());
    return sequences_.back().get();
  }

  // One step; every finished row gets token 7. What it did, as (arrival, tokens).
  std::vector<std::pair<int, int>> Step() {
    std::vector<std::pair<int, int>> done;
    scheduler_->Schedule(plan_);
    for (const auto& entry : scheduler_->scheduled()) {
      done.emplace_back(entry.sequence->arrival(), entry.num_tokens);
    }
    scheduler_->Complete();
    for (const auto& entry : scheduler_->scheduled()) {
      if (entry.logits_row >= 0) entry.sequence->Append(7);
    }
    return done;
  }

  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  StepPlan plan_;
};

using P = std::pair<int, int>;

TEST_F(SchedulerTest, PrefillIsCutIntoChunksAndDecodeGoesFirst) {
  Make(Config(64, 16));
  Add(40, 0);
  Add(10, 100);
  EXPECT_THAT(Step(), ElementsAre(P(1, 16)));
  EXPECT_TRUE(plan_.logits_indices.empty());
  EXPECT_THAT(Step(), ElementsAre(P(1, 16)));
  EXPECT_THAT(Step(), ElementsAre(P(1, 8), P(2, 8)));
  EXPECT_THAT(plan_.logits_indices, ElementsAre(7));
  EXPECT_THAT(Step(), ElementsAre(P(1, 1), P(2, 2)));
  EXPECT_THAT(plan_.logits_indices, ElementsAre(0, 2));
  EXPECT_THAT(Step(), ElementsAre(P(1, 1), P(2, 1)));
}

TEST_F(SchedulerTest, ThePlanOfOneStepWordForWord) {
  Make(Config(8, 64));
  Add(18, 100);
  Step();
  Add(3, 200);
  scheduler_->Schedule(plan_);
  EXPECT_THAT(plan_.token_ids, ElementsAre(7, 200, 201, 202));
  EXPECT_THAT(plan_.positions, ElementsAre(18, 0, 1, 2));
  EXPECT_THAT(plan_.slot_mapping, ElementsAre(18, 32, 33, 34));
  EXPECT_THAT(plan_.cu_seqlens_q, ElementsAre(0, 1, 4));
  EXPECT_THAT(plan_.context_lens, ElementsAre(19, 3));
  EXPECT_EQ(plan_.max_blocks, 2);
  EXPECT_THAT(plan_.block_tables, ElementsAre(0, 1, 2, -1));
  EXPECT_THAT(plan_.logits_indices, ElementsAre(0, 3));
}

TEST_F(SchedulerTest, FirstComeFirstServedWithinMaxNumSeqs) {
  Make(Config(64, 64, 2));
  Sequence* first = Add(4, 0);
  Add(4, 100);
  Add(4, 200);
  EXPECT_THAT(Step(), ElementsAre(P(1, 4), P(2, 4)));
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  scheduler_->Remove(first);
  EXPECT_THAT(Step(), ElementsAre(P(2, 1), P(3, 4)));
}

TEST_F(SchedulerTest, AHeadThatDoesNotFitIsNotOvertaken) {
  Make(Config(6, 64));
  Add(40, 0);    // 3 blocks
  Add(60, 100);  // 4 blocks: waits
  Add(4, 200);   // would fit
  EXPECT_THAT(Step(), ElementsAre(P(1, 40)));
  EXPECT_EQ(scheduler_->num_waiting(), 2);
}

TEST_F(SchedulerTest, TheLastToArriveIsPreemptedAndComesBack) {
  EngineConfig config = Config(5, 64);
  config.enable_prefix_cache = false;
  Make(config);
  Sequence* first = Add(30, 0);  // 2 blocks, a third at 33 tokens
  Sequence* second = Add(30, 100);
  Step();
  EXPECT_EQ(scheduler_->num_running(), 2);
  while (scheduler_->num_preemptions() == 0) Step();
  // One block is left when both need a third: the first to arrive gets it.
  EXPECT_EQ(second->status, SequenceStatus::kWaiting);
  EXPECT_TRUE(second->block_table.empty());
  EXPECT_EQ(second->num_tokens(), 33);
  EXPECT_EQ(first->block_table.size(), 3u);
  Step();
  EXPECT_EQ(scheduler_->num_running(), 1);  // 3 blocks and a spare do not fit
  scheduler_->Remove(first);
  EXPECT_THAT(Step(), ElementsAre(P(2, 33)));  // all its tokens so far
  EXPECT_EQ(plan_.logits_indices.size(), 1u);
  EXPECT_EQ(second->num_tokens(), 34);
}

TEST_F(SchedulerTest, ChoicesWaitForThePromptAndShareItsFullBlocks) {
  for (const bool cache : {true, false}) {
    EngineConfig config = Config(64, 16);
    config.enable_prefix_cache = cache;
    sequences_.clear();
    Make(config);
    Sequence* a = Add(40, 0, 50, 0);
    Sequence* b = Add(40, 0, 50, 1);
    Sequence* other = Add(8, 500);
    EXPECT_THAT(Step(), ElementsAre(P(1, 16)));
    EXPECT_THAT(Step(), ElementsAre(P(1, 16)));
    // 32 tokens are there: b joins with the 8 that it cannot share.
    EXPECT_THAT(Step(), ElementsAre(P(1, 8), P(2, 8)));
    EXPECT_EQ(b->block_table[0], a->block_table[0]);
    EXPECT_EQ(b->block_table[1], a->block_table[1]);
    EXPECT_NE(b->block_table[2], a->block_table[2]);
    EXPECT_EQ(b->cached_prompt_tokens, 32);
    EXPECT_EQ(scheduler_->block_manager().num_used(), 4);
    scheduler_->Remove(a);
    EXPECT_EQ(scheduler_->block_manager().num_used(), 3);  // b's hold
    scheduler_->Remove(b);
    scheduler_->Remove(other);
    EXPECT_EQ(scheduler_->block_manager().num_used(), 0);
  }
}

TEST_F(SchedulerTest, HeldBackChoicesDoNotHoldUpOthers) {
  Make(Config(64, 64));
  Add(100, 0, 50, 0);
  Add(100, 0, 50, 1);
  Add(5, 500);
  EXPECT_THAT(Step(), ElementsAre(P(1, 64)));
  EXPECT_THAT(Step(), ElementsAre(P(1, 36), P(3, 5)));
  EXPECT_THAT(Step(), ElementsAre(P(1, 1), P(3, 1), P(2, 4)));
}

TEST_F(SchedulerTest, OutputsAreCachedToo) {
  Make(Config(64, 64));
  Sequence* first = Add(30, 0);
  for (int i = 0; i < 40; ++i) Step();
  ASSERT_EQ(first->num_tokens(), 70);
  const std::vector<int32_t> conversation(first->tokens().begin(), first->tokens().end());
  scheduler_->Remove(first);
  sequences_.push_back(std::make_unique<Sequence>(9, 0, 9, conversation, 200));
  scheduler_->Add(sequences_.back().get());
  Step();
  EXPECT_EQ(sequences_.back()->cached_prompt_tokens, 64);
}

TEST_F(SchedulerTest, FitsCountsAllButTheLastToken) {
  Make(Config(4, 64));
  EXPECT_TRUE(scheduler_->Fits(65).ok());
  EXPECT_EQ(scheduler_->Fits(66).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SchedulerTest, LimitsMayBeAsLargeAsTheirType) {
  EngineConfig config = Config(4, 64);
  config.max_queue = config.max_num_seqs = config.max_batched_tokens =
      std::numeric_limits<int32_t>::max();
  Make(config);
  Add(4);
  EXPECT_THAT(Step(), ElementsAre(P(1, 4)));
}

TEST_F(SchedulerTest, NothingToDo) {
  Make(Config(4, 64));
  EXPECT_FALSE(scheduler_->Schedule(plan_));
  EXPECT_TRUE(plan_.token_ids.empty());
  Sequence* only = Add(4);
  scheduler_->Remove(only);  // while waiting
  EXPECT_FALSE(scheduler_->Schedule(plan_));
}

}  // namespace
}  // namespace tandem::engine
