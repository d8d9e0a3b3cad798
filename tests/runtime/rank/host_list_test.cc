#include "runtime/rank/host_list.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::rank {
namespace {

using ::testing::HasSubstr;

TEST(ParseHostsTest, NamesAndSlots) {
  const auto hosts = ParseHosts("node1:4,node-2.example,10.0.0.3:1");
  ASSERT_TRUE(hosts.ok()) << hosts.status();
  EXPECT_EQ(FormatHosts(*hosts), "node1:4,node-2.example:1,10.0.0.3:1");
}

TEST(ParseHostsTest, RefusesWhatMpirunWouldTakeForAnother) {
  for (const char* text : {"", "a,,b", "a:0", "a:x", "a:2:3", ":2", "-np", "a:99999", "a,b,a"}) {
    const auto hosts = ParseHosts(text);
    EXPECT_FALSE(hosts.ok()) << text;
    EXPECT_THAT(std::string(hosts.status().message()), HasSubstr("--hosts: found")) << text;
  }
}

// "0:2 | 1:1 2:1": replicas by their hosts' ranks, with their shares where they have to share.
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

TEST(CutReplicasTest, AReplicaAHostUnlessToldOtherwise) {
  EXPECT_EQ(Cut({4, 4}, 0, 0), "0:4 | 1:4");
  EXPECT_EQ(Cut({4, 4}, 2, 0), "0:2 0/2 | 0:2 1/2 | 1:2 0/2 | 1:2 1/2");
  EXPECT_EQ(Cut({4}, 0, 2), "0:2 0/2 | 0:2 1/2");
  EXPECT_EQ(Cut({8}, 0, 0), "0:8");
}

TEST(CutReplicasTest, SmallHostsAreJoined) {
  EXPECT_EQ(Cut({1, 1, 1, 1}, 2, 0), "0:1 1:1 | 2:1 3:1");
  EXPECT_EQ(Cut({2, 2, 2}, 6, 0), "0:2 1:2 2:2");
  // What is left over of a host is no part of another's replica: its cores would be shared.
  EXPECT_EQ(Cut({3, 3}, 2, 0), "0:2 | 1:2");
  EXPECT_EQ(Cut({1, 4, 1}, 2, 0), "1:2 0/2 | 1:2 1/2 | 0:1 2:1");
}

TEST(CutReplicasTest, FewerThanThereIsRoomFor) {
  EXPECT_EQ(Cut({4, 4}, 2, 3), "0:2 0/2 | 0:2 1/2 | 1:2");
  EXPECT_THAT(Cut({4, 4}, 2, 5), HasSubstr("room for 4 replicas of 2 ranks, expected at least 5"));
  EXPECT_THAT(Cut({2, 2}, 5, 0), HasSubstr("room for 0 replicas of 5 ranks"));
  EXPECT_THAT(Cut({2, 1}, 0, 0), HasSubstr("--tp: is needed"));
  EXPECT_THAT(Cut({2, 1}, 0, 2), HasSubstr("--tp: is needed"));
}

}  // namespace
}  // namespace tandem::rank
