#include "runtime/rank/shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/control_group.h"

namespace tandem::rank {
namespace {

using ::testing::ElementsAre;

TEST(ShardWeights, AreEqualForEvenAndAuto) {
  EXPECT_THAT(*ShardWeights("even", 3), ElementsAre(1, 1, 1));
  EXPECT_THAT(*ShardWeights("auto", 2), ElementsAre(1, 1));
}

TEST(ShardWeights, AreTheNumbersOfAList) {
  EXPECT_THAT(*ShardWeights("3,3,2", 3), ElementsAre(3, 3, 2));
}

TEST(ShardWeights, RejectsListsThatDoNotFitTheRanks) {
  for (const char* shards :
       {"", "3", "3,3", "3,3,2,1", "3,0,2", "3,-1,2", "3,x,2", "3,3,2147483648"}) {
    const auto weights = ShardWeights(shards, 3);
    EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument) << shards;
    EXPECT_NE(weights.status().message().find("--shards: found"), std::string::npos) << shards;
  }
}

}  // namespace
}  // namespace tandem::rank
