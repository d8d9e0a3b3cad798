#include "runtime/server/preparation_pool.h"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kShort = 100;
constexpr uint64_t kLong = kMiB;

using Memory = PreparationPool::Memory;

void Wait(const absl::Notification& what) {
  EXPECT_TRUE(what.WaitForNotificationWithTimeout(absl::Seconds(20)));
}

TEST(PreparationPool, WorksOfAKindRunInTheOrderOfArrival) {
  PreparationPool pool;
  absl::Notification go, done;
  std::vector<int> order;
  ASSERT_TRUE(pool.Add(pool.NewTicket(), kLong, [&](Memory&) { Wait(go); }).ok());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(pool.Add(pool.NewTicket(), kLong,
                         [&, i](Memory&) {
                           order.push_back(i);
                           if (i == 2) done.Notify();
                         })
                    .ok());
  }
  go.Notify();
  Wait(done);
  if (std::thread::hardware_concurrency() < 16) EXPECT_THAT(order, ElementsAre(0, 1, 2));
}

TEST(PreparationPool, AShortRequestWaitsForNoLongOne) {
  PreparationPool pool;
  absl::Notification go, done;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(pool.Add(pool.NewTicket(), kLong, [&](Memory&) { Wait(go); }).ok());
  }
  ASSERT_TRUE(pool.Add(pool.NewTicket(), kShort, [&](Memory&) { done.Notify(); }).ok());
  Wait(done);
  go.Notify();
}

TEST(PreparationPool, WhatWaitsIsBoundedAndTheRefusalAsksForARetry) {
  PreparationPool pool(16 * kMiB);
  absl::Notification go, begun;
  ASSERT_TRUE(pool.Add(pool.NewTicket(), kLong,
                       [&](Memory&) {
                         if (!begun.HasBeenNotified()) begun.Notify();
                         Wait(go);
                       })
                  .ok());
  Wait(begun);
  absl::Status status;
  int taken = 0;
  while (status.ok() && taken < 100) {
    status = pool.Add(pool.NewTicket(), kLong, [](Memory&) {});
    taken += status.ok();
  }
  EXPECT_LE(taken, 5);  // a quarter of 16 MiB, and one for a second thread
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("allowed: at most 4194304 together"));
  go.Notify();
}

TEST(PreparationPool, OneThatIsLargerThanTheLimitWaitsAlone) {
  PreparationPool pool(16 * kMiB);
  absl::Notification done;
  EXPECT_TRUE(pool.Add(pool.NewTicket(), 64 * kMiB, [&](Memory&) { done.Notify(); }).ok());
  Wait(done);
}

TEST(PreparationPool, DroppedWorkNeverRunsAndGivesItsPlaceBack) {
  PreparationPool pool(16 * kMiB);
  absl::Notification go, begun;
  ASSERT_TRUE(pool.Add(pool.NewTicket(), 4 * kMiB,
                       [&](Memory&) {
                         begun.Notify();
                         Wait(go);
                       })
                  .ok());
  Wait(begun);
  for (int i = 0; i < 100; ++i) {
    const auto ticket = pool.NewTicket();
    ASSERT_TRUE(pool.Add(ticket, 4 * kMiB, [](Memory&) { FAIL(); }).ok()) << i;
    if (std::thread::hardware_concurrency() >= 16) break;  // another thread would take it
    EXPECT_TRUE(pool.Drop(ticket));
    EXPECT_FALSE(pool.Drop(ticket));
  }
  go.Notify();
}

TEST(PreparationPool, MemoryIsWaitedForAndGivenBack) {
  PreparationPool pool(16 * kMiB);
  absl::Notification holds, go, waits, done;
  ASSERT_TRUE(pool.Add(pool.NewTicket(), kLong,
                       [&](Memory& memory) {
                         EXPECT_TRUE(memory.Take(10 * kMiB).ok());
                         holds.Notify();
                         Wait(go);
                       })
                  .ok());
  Wait(holds);
  ASSERT_TRUE(pool.Add(pool.NewTicket(), kShort,
                       [&](Memory& memory) {
                         waits.Notify();
                         EXPECT_TRUE(memory.Take(10 * kMiB).ok());
                         done.Notify();
                       })
                  .ok());
  Wait(waits);
  EXPECT_FALSE(done.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  go.Notify();
  Wait(done);
}

TEST(PreparationPool, MoreThanAllMemoryIsRefusedForGood) {
  PreparationPool pool(16 * kMiB);
  absl::Notification done;
  ASSERT_TRUE(pool.Add(pool.NewTicket(), kShort,
                       [&](Memory& memory) {
                         const absl::Status status = memory.Take(13 * kMiB);
                         EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
                         EXPECT_THAT(std::string(status.message()),
                                     HasSubstr("--preparation-memory"));
                         done.Notify();
                       })
                  .ok());
  Wait(done);
}

TEST(PreparationPool, StopDropsWhatWaitsAndRefusesMore) {
  PreparationPool pool;
  std::atomic<int> ran{0};
  absl::Notification begun, go;
  ASSERT_TRUE(pool.Add(pool.NewTicket(), kLong,
                       [&](Memory&) {
                         begun.Notify();
                         Wait(go);
                         ++ran;
                       })
                  .ok());
  Wait(begun);
  std::thread stopper([&] { pool.Stop(); });
  while (pool.Add(pool.NewTicket(), kLong, [&](Memory&) {}).ok()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(absl::IsUnavailable(pool.Add(pool.NewTicket(), kShort, [](Memory&) {})));
  go.Notify();
  stopper.join();
  EXPECT_EQ(ran, 1);
}

}  // namespace
}  // namespace tandem::server
