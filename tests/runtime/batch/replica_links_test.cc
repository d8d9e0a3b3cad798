// The coordinator's side of a batch job's links: replicas that stall, and strangers.
#include "runtime/batch/replica_links.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/batch/coordinator.h"

namespace tandem::batch {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ReplicaLinksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    journal_ = *BatchJournal::Open(folder_ + "/journal", {}, milliseconds(0));
    std::vector<BatchRow> rows;
    for (int i = 0; i < 2; ++i) {
      BatchRow& row = rows.emplace_back();
      row.text = absl::StrCat("row ", i);
      row.id = absl::StrCat(i);
      row.key = RowKey(row.text);
    }
    coordinator_ = std::make_unique<BatchCoordinator>(std::move(rows), *journal_, results_, errors_,
                                                      /*ordered=*/false);
    ASSERT_TRUE(coordinator_->Restore({}).ok());
    listener_ = *LinkListener::Open(/*for_other_hosts=*/false);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<ReplicaLinks> Links(milliseconds stall) {
    return std::make_unique<ReplicaLinks>(*listener_, *coordinator_, /*context=*/8,
                                          /*replicas=*/2, stall);
  }
  // A replica's leader, welcomed.
  std::unique_ptr<LineSocket> Leader(int replica) {
    auto leader = *LineSocket::Connect(listener_->coordinator(), replica);
    EXPECT_TRUE(leader->Receive().has_value());
    return leader;
  }
  // The text of the next row that the leader gets, which it has asked for.
  static std::string Row(ReplicaLinks& links, LineSocket& leader) {
    std::string text;
    std::atomic<bool> there{false};
    std::thread receiver([&] {
      if (const auto message = leader.Receive()) text = message->value("text", "");
      there = true;
    });
    while (!there) {
      links.HandOut();
      std::this_thread::sleep_for(milliseconds(1));
    }
    receiver.join();
    return text;
  }
  static ptrdiff_t OpenFiles() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  }

  static std::string MakeFolder() {
    std::string path = ::testing::TempDir() + "linksXXXXXX";
    return mkdtemp(path.data());
  }

  const std::string folder_ = MakeFolder();
  std::unique_ptr<BatchJournal> journal_;
  ResultFile results_{folder_ + "/results", milliseconds(0)};
  ResultFile errors_{folder_ + "/errors", milliseconds(0)};
  std::unique_ptr<BatchCoordinator> coordinator_;
  std::unique_ptr<LinkListener> listener_;
};

TEST_F(ReplicaLinksTest, AReplicaThatMakesNoStepLosesItsRows) {
  const auto links = Links(milliseconds(50));
  const auto stalls = Leader(0), works = Leader(1);
  ASSERT_TRUE(stalls->Send({{"want", 1}}).ok());
  const std::string row = Row(*links, *stalls);
  EXPECT_NE(row, "");
  std::vector<int> stalled;
  while (stalled.empty()) {
    links->HandOut();
    stalled = links->TakeStalled();
  }
  EXPECT_THAT(stalled, ElementsAre(0));
  EXPECT_THAT(links->TakeStalled(), IsEmpty());
  while (links->lost() == 0) links->HandOut();
  ASSERT_TRUE(works->Send({{"want", 1}}).ok());
  EXPECT_EQ(Row(*links, *works), row);
}

TEST_F(ReplicaLinksTest, AReplicaThatMakesStepsKeepsItsRows) {
  const milliseconds stall(3000);
  const auto links = Links(stall);
  const auto works = Leader(0);
  ASSERT_TRUE(works->Send({{"want", 1}}).ok());
  EXPECT_NE(Row(*links, *works), "");
  const auto until = std::chrono::steady_clock::now() + stall * 5 / 4;
  for (int steps = 0; std::chrono::steady_clock::now() < until; ++steps) {
    ASSERT_TRUE(works->Send({{"steps", steps}}).ok());
    links->HandOut();
    ASSERT_THAT(links->TakeStalled(), IsEmpty());
    std::this_thread::sleep_for(milliseconds(20));
  }
}

TEST_F(ReplicaLinksTest, StrangersLeaveNothing) {
  const auto links = Links(milliseconds(60'000));
  const ptrdiff_t before = OpenFiles();
  std::vector<std::string> parts = absl::StrSplit(listener_->coordinator(), '@');
  parts[0] = "guess";
  for (int i = 0; i < 10; ++i) {
    const auto stranger = *LineSocket::Connect(absl::StrJoin(parts, "@"), i);
    EXPECT_EQ(stranger->Receive(), std::nullopt);
  }
  for (int i = 0; i < 2000 && OpenFiles() > before; ++i) {
    links->HandOut();
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(OpenFiles(), before);
  EXPECT_EQ(links->lost(), 0);
}

}  // namespace
}  // namespace tandem::batch
