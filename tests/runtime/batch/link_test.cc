// The two ends of a link between a batch job's coordinator and a replica's leader.
#include "runtime/batch/link.h"

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::batch {
namespace {

using ::testing::HasSubstr;

TEST(BatchLinkTest, MessagesPassBothWays) {
  for (const bool for_other_hosts : {false, true}) {
    const auto listener = LinkListener::Open(for_other_hosts);
    if (!listener.ok()) {  // a host without a network
      ASSERT_TRUE(for_other_hosts) << listener.status();
      continue;
    }
    const auto leader = LineSocket::Connect((*listener)->coordinator(), 3);
    ASSERT_TRUE(leader.ok()) << leader.status();
    const std::unique_ptr<LineSocket> coordinator = (*listener)->Accept();
    const auto first = coordinator->ReceiveFirst();
    ASSERT_TRUE(first.has_value());
    EXPECT_EQ((*listener)->ReplicaOf(*first), 3);
    const std::string text(1 << 20, 'x');
    std::thread sender([&] { EXPECT_TRUE(coordinator->Send({{"text", text}}).ok()); });
    EXPECT_EQ((*leader)->Receive()->value("text", ""), text);
    sender.join();
    (*leader)->Shutdown();
    EXPECT_EQ(coordinator->Receive(), std::nullopt);
  }
}

TEST(BatchLinkTest, StrangersAreNotListenedTo) {
  const auto listener = LinkListener::Open(false);
  ASSERT_TRUE(listener.ok());
  std::vector<std::string> parts = absl::StrSplit((*listener)->coordinator(), '@');
  EXPECT_EQ(parts[0].size(), 32);
  parts[0] = std::string(32, '0');
  const auto stranger = LineSocket::Connect(absl::StrJoin(parts, "@"), 0);
  ASSERT_TRUE(stranger.ok());
  const auto first = (*listener)->Accept()->ReceiveFirst();
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ((*listener)->ReplicaOf(*first), std::nullopt);
  EXPECT_EQ((*listener)->ReplicaOf({{"replica", 0}}), std::nullopt);
  EXPECT_EQ((*listener)->ReplicaOf({{"secret", 7}, {"replica", 0}}), std::nullopt);
}

TEST(BatchLinkTest, WhatIsNoFirstMessageEndsTheLink) {
  const auto listener = LinkListener::Open(false);
  ASSERT_TRUE(listener.ok());
  const auto leader = LineSocket::Connect((*listener)->coordinator(), 0);
  const std::unique_ptr<LineSocket> coordinator = (*listener)->Accept();
  ASSERT_TRUE(coordinator->ReceiveFirst().has_value());
  // Long before its end.
  std::thread sender([&] { (void)(*leader)->Send(std::string(1 << 20, 'x')); });
  EXPECT_EQ(coordinator->ReceiveFirst(), std::nullopt);
  coordinator->Shutdown();
  sender.join();
}

TEST(BatchLinkTest, ACoordinatorThatIsNotThere) {
  std::string coordinator;
  {
    const auto listener = LinkListener::Open(false);
    ASSERT_TRUE(listener.ok());
    coordinator = (*listener)->coordinator();
  }
  const auto leader = LineSocket::Connect(coordinator, 0);
  EXPECT_THAT(std::string(leader.status().message()),
              HasSubstr("coordinator is not reached: 127.0.0.1 Connection refused"));
}

TEST(BatchLinkTest, ShutdownEndsTheWaitForLinks) {
  const auto listener = LinkListener::Open(false);
  ASSERT_TRUE(listener.ok());
  std::thread waiter([&] { EXPECT_EQ((*listener)->Accept(), nullptr); });
  (*listener)->Shutdown();
  waiter.join();
}

}  // namespace
}  // namespace tandem::batch
