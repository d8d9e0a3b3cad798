#include "runtime/engine/load_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::engine {
namespace {

using ::testing::HasSubstr;
using Kind = LoadGuardAction::Kind;
using std::chrono::seconds;

class LoadGuardTest : public testing::Test {
 protected:
  LoadGuard Make(int32_t max_running, LoadGuardOptions options = {}) {
    return LoadGuard(options, max_running,
                     [this](const LoadGuardAction& action) { actions_.push_back(action); });
  }
  static KvUse Held(int32_t held, int32_t running) {
    return {.blocks = 1000, .held = held, .occupied = held, .span = held, .running = running};
  }
  std::vector<Kind> Kinds() const {
    std::vector<Kind> kinds;
    for (const LoadGuardAction& action : actions_) kinds.push_back(action.kind);
    return kinds;
  }

  std::vector<LoadGuardAction> actions_;
  const LoadGuard::Clock::time_point start_ = LoadGuard::Clock::now();
};

TEST_F(LoadGuardTest, TheBatchIsReducedAboveAndGrowsBelowAndStaysInBetween) {
  LoadGuard guard = Make(64);
  EXPECT_EQ(guard.Decide(Held(950, 64)).max_running, 64);  // not over 95 %
  EXPECT_EQ(guard.Decide(Held(951, 64)).max_running, 56);
  ASSERT_EQ(actions_.size(), 1u);
  EXPECT_EQ(actions_[0].reason,
            "batch reduced to 56 of 64 sequences: 95.1 % of the KV blocks are held, over 95.0 %");
  EXPECT_EQ(guard.Decide(Held(900, 56)).max_running, 56);
  EXPECT_EQ(guard.Decide(Held(800, 50)).max_running, 56);  // not under 80 %
  EXPECT_EQ(guard.Decide(Held(799, 50)).max_running, 63);
  EXPECT_THAT(actions_[1].reason, HasSubstr("may grow to 63"));
  EXPECT_EQ(guard.Decide(Held(940, 50)).max_running, 63);  // between the two again
  EXPECT_EQ(guard.Decide(Held(10, 1)).max_running, 64);
  EXPECT_EQ(guard.Decide(Held(10, 1)).max_running, 64);
  EXPECT_THAT(Kinds(),
              testing::ElementsAre(Kind::kBatchReduced, Kind::kBatchGrown, Kind::kBatchGrown));
  EXPECT_EQ(guard.stats().batch_reductions, 1);
  EXPECT_EQ(guard.stats().batch_growths, 2);
}

TEST_F(LoadGuardTest, OneSequenceIsAlwaysLeft) {
  LoadGuard guard = Make(8);
  int32_t running = 8;
  for (int i = 0; i < 20; ++i) running = guard.Decide(Held(1000, running)).max_running;
  EXPECT_EQ(running, 1);
  EXPECT_EQ(guard.stats().batch_reductions, 7);
}

TEST_F(LoadGuardTest, AThresholdOfOneNeverReduces) {
  LoadGuard guard = Make(8, {.kv_high = 1});
  EXPECT_EQ(guard.Decide(Held(1000, 8)).max_running, 8);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(LoadGuardTest, CompactionGoesFromTheUpperThresholdDownToTheLower) {
  LoadGuard guard = Make(8);
  const auto look = [&](int32_t occupied) {
    return guard
        .Decide({.blocks = 1000, .held = occupied, .occupied = occupied, .span = 100, .running = 1})
        .compact;
  };
  EXPECT_FALSE(look(80));
  EXPECT_FALSE(look(70));  // 30 % is not over it
  EXPECT_TRUE(look(69));
  EXPECT_THAT(actions_.at(0).reason,
              HasSubstr("31 of the lowest 100 blocks are free, fragmentation 31.0 %"));
  EXPECT_TRUE(look(80));   // goes on
  EXPECT_FALSE(look(85));  // 15 %
  EXPECT_FALSE(look(75));
  EXPECT_EQ(guard.stats().compactions, 1);
  EXPECT_DOUBLE_EQ(guard.stats().fragmentation, 0.25);
}

TEST_F(LoadGuardTest, AnEmptyCacheIsNotFragmented) {
  LoadGuard guard = Make(8);
  EXPECT_FALSE(guard.Decide({.blocks = 10}).compact);
  EXPECT_EQ(guard.stats().fragmentation, 0);
}

TEST_F(LoadGuardTest, LatencyIsJudgedByItsNinetyFifthPercentile) {
  LoadGuard guard = Make(8);
  for (int i = 0; i < 19; ++i) guard.AddToken(9, start_);
  guard.JudgeLatency(start_);
  EXPECT_EQ(guard.stats().itl_p95, 0);  // too few
  for (int i = 0; i < 361; ++i) guard.AddToken(0.1, start_);
  guard.JudgeLatency(start_ + seconds(1));
  EXPECT_EQ(guard.stats().itl_p95, 0.1);  // 19 of 380 are slow: 5 %
  EXPECT_FALSE(guard.latency_is_high());
  guard.AddToken(0.7, start_ + seconds(1));
  guard.JudgeLatency(start_ + seconds(1));
  EXPECT_EQ(guard.stats().itl_p95, 0.1);  // once an interval
  guard.JudgeLatency(start_ + seconds(2));
  EXPECT_EQ(guard.stats().itl_level, LatencyLevel::kWarning);
  EXPECT_THAT(actions_.at(0).reason,
              HasSubstr("inter-token latency: 95 % are within 700 ms, warning at 500 ms"));
  for (int i = 0; i < 20; ++i) guard.AddFirstToken(1.5, start_ + seconds(2));
  guard.JudgeLatency(start_ + seconds(3));
  EXPECT_EQ(guard.stats().ttft_level, LatencyLevel::kAlarm);
  EXPECT_THAT(Kinds(), testing::ElementsAre(Kind::kLatencyWarning, Kind::kLatencyAlarm));
  EXPECT_EQ(guard.stats().latency_warnings, 1);
  EXPECT_EQ(guard.stats().latency_alarms, 1);
  // Nothing new for a minute: all is forgotten, and said so.
  EXPECT_TRUE(guard.latency_is_high());
  guard.JudgeLatency(start_ + seconds(63));
  EXPECT_FALSE(guard.latency_is_high());
  EXPECT_EQ(actions_.size(), 4u);
  EXPECT_EQ(actions_.back().kind, Kind::kLatencyNormal);
}

TEST_F(LoadGuardTest, OnlyTheLatestSamplesCount) {
  LoadGuard guard = Make(8);
  for (size_t i = 0; i < LoadGuard::kSamples; ++i) guard.AddToken(5, start_);
  for (size_t i = 0; i < LoadGuard::kSamples; ++i) guard.AddToken(0.01, start_);
  guard.JudgeLatency(start_);
  EXPECT_EQ(guard.stats().itl_p95, 0.01);
}

TEST_F(LoadGuardTest, OptionsOutOfOrderAreRefused) {
  EXPECT_TRUE(CheckLoadGuardOptions({}).ok());
  EXPECT_FALSE(CheckLoadGuardOptions({.kv_low = 0.96}).ok());
  EXPECT_FALSE(CheckLoadGuardOptions({.kv_high = 1.1}).ok());
  EXPECT_FALSE(CheckLoadGuardOptions({.fragmentation_low = -0.1}).ok());
  EXPECT_FALSE(CheckLoadGuardOptions({.latency_alarm = 0.1}).ok());
}

}  // namespace
}  // namespace tandem::engine
