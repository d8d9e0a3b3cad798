#include "runtime/batch/progress.h"

#include <algorithm>
#include <string>

#include "gtest/gtest.h"

namespace tandem::batch {
namespace {

// Of 200 rows 40 were done before, 30 are done by this run, 10 of all have failed, all of them now.
BatchCounts Counts() {
  BatchCounts counts;
  counts.rows = 200;
  counts.before = 40;
  counts.finished = 20;
  counts.failed = counts.failed_now = 10;
  counts.completion_tokens = 6000;
  return counts;
}

TEST(BatchProgressTest, FiguresAreOfThePaceOfThisRun) {
  // 130 rows are left, 30 took a minute.
  EXPECT_EQ(Figures(Counts(), 60), "70 of 200 rows, 10 failed, 100.0 tok/s, 4m20s left");
  EXPECT_EQ(Figures(Counts(), 3600), "70 of 200 rows, 10 failed, 1.7 tok/s, 4h20m left");
  BatchCounts nothing;
  nothing.rows = 5;
  EXPECT_EQ(Figures(nothing, 7), "0 of 5 rows, 0 failed, 0.0 tok/s, ? left");
}

TEST(BatchProgressTest, TheBarFitsTheTerminal) {
  const std::string figures = Figures(Counts(), 60);
  EXPECT_EQ(BarLine(Counts(), 60, 200), "[########................] " + figures);
  EXPECT_EQ(BarLine(Counts(), 60, 80), "[########................] " + figures);
  EXPECT_EQ(BarLine(Counts(), 60, 64), "[###.......] " + figures);
  EXPECT_EQ(BarLine(Counts(), 60, 55), figures);
  EXPECT_EQ(BarLine(Counts(), 60, 21), figures.substr(0, 20));
  for (int columns = 0; columns < 120; ++columns) {
    EXPECT_LT(static_cast<int>(BarLine(Counts(), 60, columns).size()), std::max(1, columns));
  }
}

TEST(BatchProgressTest, FullAndEmpty) {
  BatchCounts counts;
  EXPECT_EQ(BarLine(counts, 1, 100).substr(0, 26), "[" + std::string(24, '#') + "]");
  counts.rows = 3;
  EXPECT_EQ(BarLine(counts, 1, 100).substr(0, 26), "[" + std::string(24, '.') + "]");
}

}  // namespace
}  // namespace tandem::batch
