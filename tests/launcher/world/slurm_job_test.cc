#include "launcher/world/slurm_job.h"

#include "gtest/gtest.h"

namespace tandem::launcher {
namespace {

TEST(SlurmSecondsLeftTest, AsSqueuePrintsThem) {
  EXPECT_EQ(SlurmSecondsLeft("0:00"), 0);
  EXPECT_EQ(SlurmSecondsLeft("59:30"), 59 * 60 + 30);
  EXPECT_EQ(SlurmSecondsLeft("2:03:04"), 2 * 3600 + 3 * 60 + 4);
  EXPECT_EQ(SlurmSecondsLeft("1-02:03:04"), 86400 + 2 * 3600 + 3 * 60 + 4);
}

TEST(SlurmSecondsLeftTest, NothingElse) {
  for (const char* text : {"", "UNLIMITED", "INVALID", "NOT_SET", "7", "1-2-3:04", "-1:00", "1:x",
                           "1:2:3:4", "slurm_load_jobs error: Invalid job id specified"}) {
    EXPECT_EQ(SlurmSecondsLeft(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace tandem::launcher
