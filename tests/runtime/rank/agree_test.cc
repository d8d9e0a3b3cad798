#include "runtime/rank/agree.h"

#include <gtest/gtest.h>

#include <vector>

namespace tandem::rank {
namespace {

TEST(CompareSetups, AcceptsRanksWithTheSameSetup) {
  EXPECT_TRUE(CompareSetups(std::vector<std::string>{"model a\nbuild 1"}).ok());
  EXPECT_TRUE(CompareSetups(std::vector<std::string>(3, "model a\nbuild 1")).ok());
}

TEST(CompareSetups, NamesTheFirstRankThatDiffersAndEachDifference) {
  const absl::Status status = CompareSetups(std::vector<std::string>{
      "model a\nbuild 1\n--shards even", "model a\nbuild 1\n--shards even",
      "model b\nbuild 1\n--shards auto", "model c\nbuild 1\n--shards even"});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "rank 2 differs from rank 0: it has model b, rank 0 has model a; --shards auto, rank 0 "
            "has --shards even; give all ranks the same program, model and options, and --isa on "
            "unlike hosts");
}

TEST(CompareSetups, NamesLinesThatOnlyOneBuildHas) {
  const absl::Status status =
      CompareSetups(std::vector<std::string>{"model a\nbuild 1", "model a\nbuild 2\n--new 1"});
  EXPECT_NE(status.message().find("build 2, rank 0 has build 1; --new 1, rank 0 has nothing"),
            std::string::npos)
      << status;
}

}  // namespace
}  // namespace tandem::rank
