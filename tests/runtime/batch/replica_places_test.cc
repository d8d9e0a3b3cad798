#include "runtime/batch/replica_places.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::batch {
namespace {

using ::testing::HasSubstr;

// "0:2 | 1:1 2:1": the ranks of each replica as HOST:RANKS, then INDEX/COUNT of its host where it
// has only a part of it.
std::string Cut(const std::vector<int>& slots, int tp, int replicas) {
  const auto places = CutReplicas(slots, tp, replicas);
  if (!places.ok()) return std::string(places.status().message());
  std::string text;
  for (const ReplicaPlace& place : *places) {
    absl::StrAppend(&text, text.empty() ? "" : " | ");
    for (size_t i = 0; i < place.ranks.size(); ++i) {
      absl::StrAppend(&text, i > 0 ? " " : "", place.ranks[i].first, ":", place.ranks[i].second);
    }
    if (place.share.count > 1)
      absl::StrAppend(&text, " ", place.share.index, "/", place.share.count);
  }
  return text;
}

TEST(CutReplicasTest, OneReplicaPerHostByDefault) {
  EXPECT_EQ(Cut({4, 4}, 0, 0), "0:4 | 1:4");
  EXPECT_EQ(Cut({4, 4}, 2, 0), "0:2 0/2 | 0:2 1/2 | 1:2 0/2 | 1:2 1/2");
  EXPECT_EQ(Cut({4}, 0, 2), "0:2 0/2 | 0:2 1/2");
  EXPECT_EQ(Cut({8}, 0, 0), "0:8");
}

TEST(CutReplicasTest, SmallHostsAreJoined) {
  EXPECT_EQ(Cut({1, 1, 1, 1}, 2, 0), "0:1 1:1 | 2:1 3:1");
  EXPECT_EQ(Cut({2, 2, 2}, 6, 0), "0:2 1:2 2:2");
  // Slots left over on a host join no replica of another host: cores would be used twice.
  EXPECT_EQ(Cut({3, 3}, 2, 0), "0:2 | 1:2");
  EXPECT_EQ(Cut({1, 4, 1}, 2, 0), "1:2 0/2 | 1:2 1/2 | 0:1 2:1");
}

TEST(CutReplicasTest, FewerReplicasThanThereIsRoomFor) {
  EXPECT_EQ(Cut({4, 4}, 2, 3), "0:2 0/2 | 0:2 1/2 | 1:2");
  EXPECT_THAT(Cut({4, 4}, 2, 5), HasSubstr("room for 4 replicas of 2 ranks, expected at least 5"));
  EXPECT_THAT(Cut({2, 2}, 5, 0), HasSubstr("room for 0 replicas of 5 ranks"));
  EXPECT_THAT(Cut({2, 1}, 0, 0), HasSubstr("--tp: is needed"));
  EXPECT_THAT(Cut({2, 1}, 0, 2), HasSubstr("--tp: is needed"));
}

}  // namespace
}  // namespace tandem::batch
