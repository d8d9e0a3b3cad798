#include "runtime/engine/histogram.h"

#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::engine {
namespace {

using ::testing::ElementsAre;

TEST(HistogramTest, AValueBelongsToTheFirstBoundThatItDoesNotExceed) {
  const double bounds[] = {1, 2.5, 10};
  Histogram histogram(bounds);
  for (const double value : {0.0, 1.0, 1.5, 2.5, 2.75, 10.0, 10.25, 1e9}) histogram.Add(value);
  const Histogram::Counts counts = histogram.Read();
  EXPECT_THAT(counts.bounds, ElementsAre(1, 2.5, 10));
  EXPECT_THAT(counts.buckets, ElementsAre(2, 2, 2, 2));
  EXPECT_EQ(counts.count, 8);
  EXPECT_EQ(counts.sum, 1e9 + 28);
}

TEST(HistogramTest, NoValueIsLostBetweenThreads) {
  const double bounds[] = {1, 2};
  Histogram histogram(bounds);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&histogram, t] {
      for (int i = 0; i < 1000; ++i) histogram.Add(t);
    });
  }
  int64_t seen = 0;
  while (seen < 4000) {
    const int64_t now = histogram.Read().count;
    EXPECT_GE(now, seen);
    seen = now;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(histogram.Read().buckets, ElementsAre(2000, 1000, 1000));
  EXPECT_EQ(histogram.Read().sum, 6000);
}

}  // namespace
}  // namespace tandem::engine
