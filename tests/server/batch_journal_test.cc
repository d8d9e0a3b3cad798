#include "runtime/server/batch_journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "runtime/server/batch_coordinator.h"

namespace tandem::server {
namespace {

using ::testing::HasSubstr;

class BatchJournalTest : public ::testing::Test {
 protected:
  BatchJournalTest() {
    std::string pattern = ::testing::TempDir() + "journalXXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~BatchJournalTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<std::unique_ptr<BatchJournal>> Open(JournalHeader header = {{"model", "m"}}) {
    return BatchJournal::Open(path(), header, std::chrono::milliseconds(100));
  }
  std::string path() const { return folder_ + "/out.journal"; }
  std::string Text() const {
    std::ifstream file(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Write(const std::string& text) {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << text;
  }
  std::string folder_;
};

TEST_F(BatchJournalTest, KeepsWhatWasCommitted) {
  {
    auto journal = Open();
    ASSERT_TRUE(journal.ok()) << journal.status();
    EXPECT_TRUE((*journal)->is_new());
    (*journal)->AddTokens(1, 0, {5, 6});
    (*journal)->AddTokens(2, 1, {7});
    (*journal)->AddDone({.key = 3, .id = "\"c\"", .line = "{\"id\":\"c\"}"});
    ASSERT_TRUE((*journal)->Commit().ok());
    (*journal)->AddTokens(1, 0, {8});
    (*journal)->AddDone({.key = 2, .id = "2", .failed = true, .line = "x"});
    ASSERT_TRUE((*journal)->Commit().ok());
    (*journal)->AddTokens(9, 0, {1});  // never committed
  }
  auto journal = Open();
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_FALSE((*journal)->is_new());
  ASSERT_EQ((*journal)->done().size(), 2u);
  EXPECT_EQ((*journal)->done()[0].line, "{\"id\":\"c\"}");
  EXPECT_FALSE((*journal)->done()[0].failed);
  EXPECT_TRUE((*journal)->done()[1].failed);
  ASSERT_EQ((*journal)->progress().size(), 1u);  // row 2 is done
  EXPECT_EQ((*journal)->progress().at({1, 0}), (std::vector<int32_t>{5, 6, 8}));
}

TEST_F(BatchJournalTest, CutAnywhereItKeepsTheWholeRecordsBefore) {
  {
    auto journal = Open();
    ASSERT_TRUE(journal.ok());
    for (uint64_t key = 1; key <= 4; ++key) {
      (*journal)->AddDone({.key = key, .id = "1", .line = "{\"n\":\"\\n\"}"});
      (*journal)->AddTokens(100 + key, 0, {1, 2, 3});
    }
    ASSERT_TRUE((*journal)->Commit().ok());
  }
  const std::string whole = Text();
  for (size_t size = 0; size <= whole.size(); ++size) {
    for (const std::string& tail : {std::string(), std::string("\0\0\0\n\0", 5)}) {
      Write(whole.substr(0, size) + tail);
      const std::string kept = whole.substr(0, whole.substr(0, size).rfind('\n') + 1);
      auto journal = Open();
      if (kept.empty() && tail.find('\n') != std::string::npos) {
        EXPECT_FALSE(journal.ok());  // no journal at all
        continue;
      }
      ASSERT_TRUE(journal.ok()) << size << journal.status();
      const auto records = std::count(kept.begin(), kept.end(), '\n');
      EXPECT_EQ(static_cast<int64_t>((*journal)->done().size() + (*journal)->progress().size()),
                std::max<int64_t>(0, records - 1));
      if (!kept.empty()) {
        EXPECT_EQ(Text(), kept);
      }
    }
  }
}

TEST_F(BatchJournalTest, ADamagedRecordEndsIt) {
  {
    auto journal = Open();
    (*journal)->AddDone({.key = 1, .id = "1", .line = "first"});
    (*journal)->AddDone({.key = 2, .id = "2", .line = "second"});
    ASSERT_TRUE((*journal)->Commit().ok());
  }
  std::string text = Text();
  text[text.find("second")] = 'S';
  Write(text);
  auto journal = Open();
  ASSERT_TRUE(journal.ok());
  ASSERT_EQ((*journal)->done().size(), 1u);
  EXPECT_EQ((*journal)->done()[0].line, "first");
}

TEST_F(BatchJournalTest, RefusesAnotherHeaderAndOtherFiles) {
  ASSERT_TRUE(Open().ok());
  const auto other = Open({{"model", "other"}});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()),
              HasSubstr("model: found \"m\", expected \"other\""));
  Write("some text\nof somebody\n");
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Text(), "some text\nof somebody\n");
}

TEST_F(BatchJournalTest, IsLockedWhileOpen) {
  auto first = Open();
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kUnavailable);
  std::thread end([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    first->reset();
  });
  const auto second =
      BatchJournal::Open(path(), {{"model", "m"}}, std::chrono::milliseconds(10000));
  end.join();
  EXPECT_TRUE(second.ok()) << second.status();
}

BatchRow Row(uint64_t key, int32_t max_tokens) {
  BatchRow row;
  row.key = key;
  row.id = std::to_string(key);
  row.line = static_cast<int64_t>(key);
  row.prompt_ids = {1};
  row.params.max_tokens = max_tokens;
  return row;
}

class BatchCoordinatorTest : public BatchJournalTest {
 protected:
  // Rows 1, 2, 3 with room for 10, 30 and 20 tokens.
  void Start(bool ordered) {
    coordinator_.reset();
    journal_.reset();
    journal_ = *Open();
    results_ = std::make_unique<ResultFile>(folder_ + "/out");
    errors_ = std::make_unique<ResultFile>(folder_ + "/errors");
    coordinator_ = std::make_unique<BatchCoordinator>(
        std::vector<BatchRow>{Row(1, 10), Row(2, 30), Row(3, 20)}, *journal_, *results_, *errors_,
        ordered);
    restored_ = coordinator_->Restore({});
  }
  std::string Results() const {
    std::ifstream file(folder_ + "/out", std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::unique_ptr<BatchJournal> journal_;
  std::unique_ptr<ResultFile> results_, errors_;
  std::unique_ptr<BatchCoordinator> coordinator_;
  absl::Status restored_;
};

TEST_F(BatchCoordinatorTest, HandsOutTheLongestFirstAndTakesBack) {
  Start(false);
  EXPECT_EQ(coordinator_->Next()->row.key, 2u);
  EXPECT_EQ(coordinator_->Next()->row.key, 3u);
  coordinator_->AddTokens(3, 0, {7, 8, 9});
  coordinator_->Return(3);
  const auto again = coordinator_->Next();
  EXPECT_EQ(again->row.key, 3u);
  EXPECT_EQ(again->tokens[0], (std::vector<int32_t>{7, 8}));  // the last one is made again
  EXPECT_EQ(coordinator_->Next()->row.key, 1u);
  EXPECT_FALSE(coordinator_->Next().has_value());
  EXPECT_FALSE(coordinator_->all_done());
}

TEST_F(BatchCoordinatorTest, ResultsFollowTheJournalWhereverAWriteWasCut) {
  Start(false);
  coordinator_->AddTokens(1, 0, {4, 5});
  coordinator_->Finish(2, false, "two");
  coordinator_->Finish(3, false, "three");
  ASSERT_TRUE(coordinator_->Flush(true).ok());
  EXPECT_EQ(Results(), "two\nthree\n");
  for (size_t size = 0; size <= Results().size(); ++size) {
    const std::string cut = std::string("two\nthree\n").substr(0, size) + std::string(size % 3, 0);
    std::ofstream(folder_ + "/out", std::ios::binary | std::ios::trunc) << cut;
    Start(false);
    ASSERT_TRUE(restored_.ok()) << restored_;
    EXPECT_EQ(Results(), "two\nthree\n");
    EXPECT_EQ(coordinator_->counts().before, 2);
    const auto next = coordinator_->Next();
    EXPECT_EQ(next->row.key, 1u);
    EXPECT_EQ(next->tokens[0], (std::vector<int32_t>{4}));
    EXPECT_FALSE(coordinator_->Next().has_value());
  }
  std::ofstream(folder_ + "/out", std::ios::binary | std::ios::trunc) << "two\nfour\n";
  Start(false);
  EXPECT_EQ(restored_.code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(BatchCoordinatorTest, OrderedResultsWaitForThoseBefore) {
  Start(true);
  coordinator_->Finish(2, false, "two");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  EXPECT_EQ(Results(), "");
  Start(true);
  coordinator_->Finish(1, true, "failed");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  EXPECT_EQ(Results(), "two\n");
  coordinator_->Finish(3, false, "three");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  EXPECT_EQ(Results(), "two\nthree\n");
  EXPECT_TRUE(coordinator_->all_done());
  EXPECT_EQ(coordinator_->counts().failed, 1);
}

}  // namespace
}  // namespace tandem::server
