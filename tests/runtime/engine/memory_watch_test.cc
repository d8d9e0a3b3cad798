#include "runtime/engine/memory_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::engine {
namespace {

using ::testing::HasSubstr;
using Kind = WatchAction::Kind;
using std::chrono::seconds;

class MemoryWatchTest : public testing::Test {
 protected:
  MemoryWatch Make(int32_t max_running, WatchOptions options = {}) {
    return MemoryWatch(options, max_running,
                       [this](const WatchAction& action) { actions_.push_back(action); });
  }
  static KvUse Held(int32_t held, int32_t running) {
    return {.blocks = 1000, .held = held, .occupied = held, .span = held, .running = running};
  }
  std::vector<Kind> Kinds() const {
    std::vector<Kind> kinds;
    for (const WatchAction& action : actions_) kinds.push_back(action.kind);
    return kinds;
  }

  std::vector<WatchAction> actions_;
  const MemoryWatch::Clock::time_point start_ = MemoryWatch::Clock::now();
};

TEST_F(MemoryWatchTest, TheBatchIsReducedAboveAndGrowsBelowAndStaysInBetween) {
  MemoryWatch watch = Make(64);
  EXPECT_EQ(watch.Look(Held(950, 64)).max_running, 64);  // not over 95 %
  EXPECT_EQ(watch.Look(Held(951, 64)).max_running, 56);
  ASSERT_EQ(actions_.size(), 1u);
  EXPECT_EQ(actions_[0].reason,
            "batch reduced to 56 of 64 sequences: 95.1 % of the KV blocks are held, over 95.0 %");
  EXPECT_EQ(watch.Look(Held(900, 56)).max_running, 56);
  EXPECT_EQ(watch.Look(Held(800, 50)).max_running, 56);  // not under 80 %
  EXPECT_EQ(watch.Look(Held(799, 50)).max_running, 63);
  EXPECT_THAT(actions_[1].reason, HasSubstr("may grow to 63"));
  EXPECT_EQ(watch.Look(Held(940, 50)).max_running, 63);  // between the two again
  EXPECT_EQ(watch.Look(Held(10, 1)).max_running, 64);
  EXPECT_EQ(watch.Look(Held(10, 1)).max_running, 64);
  EXPECT_THAT(Kinds(),
              testing::ElementsAre(Kind::kBatchReduced, Kind::kBatchGrown, Kind::kBatchGrown));
  EXPECT_EQ(watch.stats().batch_reductions, 1);
  EXPECT_EQ(watch.stats().batch_growths, 2);
}

TEST_F(MemoryWatchTest, OneSequenceIsAlwaysLeft) {
  MemoryWatch watch = Make(8);
  int32_t running = 8;
  for (int i = 0; i < 20; ++i) running = watch.Look(Held(1000, running)).max_running;
  EXPECT_EQ(running, 1);
  EXPECT_EQ(watch.stats().batch_reductions, 7);
}

TEST_F(MemoryWatchTest, AThresholdOfOneNeverReduces) {
  MemoryWatch watch = Make(8, {.kv_high = 1});
  EXPECT_EQ(watch.Look(Held(1000, 8)).max_running, 8);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(MemoryWatchTest, CompactionGoesFromTheUpperThresholdDownToTheLower) {
  MemoryWatch watch = Make(8);
  const auto look = [&](int32_t occupied) {
    return watch
        .Look({.blocks = 1000, .held = occupied, .occupied = occupied, .span = 100, .running = 1})
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
  EXPECT_EQ(watch.stats().compactions, 1);
  EXPECT_DOUBLE_EQ(watch.stats().fragmentation, 0.25);
}

TEST_F(MemoryWatchTest, AnEmptyCacheIsNotFragmented) {
  MemoryWatch watch = Make(8);
  EXPECT_FALSE(watch.Look({.blocks = 10}).compact);
  EXPECT_EQ(watch.stats().fragmentation, 0);
}

TEST_F(MemoryWatchTest, LatencyIsJudgedByItsNinetyFifthPercentile) {
  MemoryWatch watch = Make(8);
  for (int i = 0; i < 19; ++i) watch.AddToken(9, start_);
  watch.Judge(start_);
  EXPECT_EQ(watch.stats().itl_p95, 0);  // too few
  for (int i = 0; i < 361; ++i) watch.AddToken(0.1, start_);
  watch.Judge(start_ + seconds(1));
  EXPECT_EQ(watch.stats().itl_p95, 0.1);  // 19 of 380 are slow: 5 %
  EXPECT_FALSE(watch.pending());
  watch.AddToken(0.7, start_ + seconds(1));
  watch.Judge(start_ + seconds(1));
  EXPECT_EQ(watch.stats().itl_p95, 0.1);  // once an interval
  watch.Judge(start_ + seconds(2));
  EXPECT_EQ(watch.stats().itl_level, LatencyLevel::kWarning);
  EXPECT_THAT(actions_.at(0).reason,
              HasSubstr("inter-token latency: 95 % are within 700 ms, warning at 500 ms"));
  for (int i = 0; i < 20; ++i) watch.AddFirstToken(1.5, start_ + seconds(2));
  watch.Judge(start_ + seconds(3));
  EXPECT_EQ(watch.stats().ttft_level, LatencyLevel::kAlarm);
  EXPECT_THAT(Kinds(), testing::ElementsAre(Kind::kLatencyWarning, Kind::kLatencyAlarm));
  EXPECT_EQ(watch.stats().latency_warnings, 1);
  EXPECT_EQ(watch.stats().latency_alarms, 1);
  // Nothing new for a minute: all is forgotten, and said so.
  EXPECT_TRUE(watch.pending());
  watch.Judge(start_ + seconds(63));
  EXPECT_FALSE(watch.pending());
  EXPECT_EQ(actions_.size(), 4u);
  EXPECT_EQ(actions_.back().kind, Kind::kLatencyNormal);
}

TEST_F(MemoryWatchTest, OnlyTheLatestSamplesCount) {
  MemoryWatch watch = Make(8);
  for (size_t i = 0; i < MemoryWatch::kSamples; ++i) watch.AddToken(5, start_);
  for (size_t i = 0; i < MemoryWatch::kSamples; ++i) watch.AddToken(0.01, start_);
  watch.Judge(start_);
  EXPECT_EQ(watch.stats().itl_p95, 0.01);
}

TEST_F(MemoryWatchTest, OptionsOutOfOrderAreRefused) {
  EXPECT_TRUE(CheckWatchOptions({}).ok());
  EXPECT_FALSE(CheckWatchOptions({.kv_low = 0.96}).ok());
  EXPECT_FALSE(CheckWatchOptions({.kv_high = 1.1}).ok());
  EXPECT_FALSE(CheckWatchOptions({.fragmentation_low = -0.1}).ok());
  EXPECT_FALSE(CheckWatchOptions({.latency_alarm = 0.1}).ok());
}

}  // namespace
}  // namespace tandem::engine
