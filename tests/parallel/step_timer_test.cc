#include "parallel/step_timer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "parallel/clock_offset.h"
#include "parallel/thread_communicator.h"
#include "parallel/timed_communicator.h"

namespace tandem::parallel {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

double Of(const StepTimer& timer, StepPart part) {
  return timer.Totals()[static_cast<size_t>(part)];
}

TEST(StepTimer, PartsAddUpToTheWallTime) {
  const auto begin = StepTimer::Clock::now();
  StepTimer timer;
  const auto built = StepTimer::Clock::now();
  timer.Enter(StepPart::kQkv);
  std::this_thread::sleep_for(milliseconds(3));
  timer.Enter(StepPart::kFfn);
  std::this_thread::sleep_for(milliseconds(2));
  timer.Enter(StepPart::kQkv);
  std::this_thread::sleep_for(milliseconds(3));
  const double at_least = std::chrono::duration<double>(StepTimer::Clock::now() - built).count();
  double sum = 0;
  for (const double seconds : timer.Totals()) sum += seconds;
  const double at_most = std::chrono::duration<double>(StepTimer::Clock::now() - begin).count();
  EXPECT_GE(sum, at_least);
  EXPECT_LE(sum, at_most);
  EXPECT_GE(Of(timer, StepPart::kQkv), 0.006);  // the present part counts until now
  EXPECT_GE(Of(timer, StepPart::kFfn), 0.002);
  EXPECT_EQ(Of(timer, StepPart::kHead), 0);
  EXPECT_TRUE(timer.Slices().empty());
}

TEST(StepTimer, KeepsTheLastSlicesInOrder) {
  StepTimer timer(3);
  timer.BeginStep();
  for (const StepPart part : {StepPart::kQkv, StepPart::kAttention, StepPart::kOutput,
                              StepPart::kOutput, StepPart::kFfn}) {
    timer.Enter(part);
  }
  timer.BeginStep();
  timer.Enter(StepPart::kHead);
  const std::vector<StepTimer::Slice> slices = timer.Slices();
  std::vector<StepPart> parts;
  for (const auto& slice : slices) parts.push_back(slice.part);
  // Entering the part that one is in is no new slice, and the present one is open.
  EXPECT_THAT(parts, ElementsAre(StepPart::kAttention, StepPart::kOutput, StepPart::kFfn));
  for (size_t i = 1; i < slices.size(); ++i) {
    EXPECT_EQ(slices[i].begin_ns, slices[i - 1].begin_ns + slices[i - 1].duration_ns);
  }
  EXPECT_EQ(slices[0].step, 1);
  EXPECT_EQ(slices[2].step, 2);
}

TEST(StepTimer, AnAllReduceIsBookedAndThePartResumed) {
  StepTimer timer;
  TimedCommunicator communicator(std::make_unique<SelfCommunicator>(), &timer);
  timer.Enter(StepPart::kOutput);
  const TreeLayout layout = TreeLayout::Make(1, std::vector<kernels::LeafRange>{{0, 1}});
  const std::vector<float> mine(1 << 16, 1.0f);
  std::vector<float> out(mine.size());
  const ReducePlan plan = communicator.PlanReduce(layout);
  ASSERT_TRUE(communicator.AllReduce(plan, mine.data(), mine.size(), out.data()).ok());
  EXPECT_EQ(out, mine);
  EXPECT_GT(Of(timer, StepPart::kAllReduce), 0);
  EXPECT_EQ(timer.part(), StepPart::kOutput);
}

TEST(ClockOffset, LiesBetweenWhatTheExchangesAllow) {
  // Rank 1's clock is 1000 ahead; messages take 10 and 30.
  const ClockSample rank_0[] = {{.sent_ns = 0, .received_ns = 40}};
  const ClockSample rank_1[] = {{.sent_ns = 1010, .received_ns = 1030}};
  const int64_t offset = EstimateClockOffset(rank_0, rank_1);
  EXPECT_GE(offset, 970);
  EXPECT_LE(offset, 1030);
  // A second exchange narrows it down.
  const ClockSample rank_0_more[] = {{0, 40}, {100, 104}};
  const ClockSample rank_1_more[] = {{1010, 1030}, {1101, 1103}};
  EXPECT_EQ(EstimateClockOffset(rank_0_more, rank_1_more), 1000);
}

TEST(ClockOffset, OneClockHasNone) {
  const ClockSample rank_0[] = {{0, 40}, {100, 140}};
  const ClockSample rank_1[] = {{35, 37}, {101, 141}};
  EXPECT_EQ(EstimateClockOffset(rank_0, rank_1), 0);
}

TEST(ClockOffset, RanksOfOneProcessShareTheirClock) {
  ThreadWorld world(3);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&world, rank] {
      const auto communicator = world.Make(rank);
      const auto offsets = MeasureClockOffsets(communicator->control());
      ASSERT_TRUE(offsets.ok());
      EXPECT_THAT(*offsets, ElementsAre(0, 0, 0));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tandem::parallel
