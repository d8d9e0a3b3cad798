#include "runtime/batch/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_format.h"
#include "runtime/batch/coordinator.h"

namespace tandem::batch {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::milliseconds kLockWait{100};

// A line of the journal.
std::string Record(const std::string& json) {
  return absl::StrFormat("%016x %s\n", XXH64(json.data(), json.size(), 0), json);
}

class BatchJournalTest : public ::testing::Test {
 protected:
  BatchJournalTest() {
    std::string pattern = ::testing::TempDir() + "journalXXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~BatchJournalTest() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<std::unique_ptr<BatchJournal>> Open(JournalHeader header = {{"model", "m"}}) {
    return BatchJournal::Open(path(), header, kLockWait);
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
    (*journal)->AddTokens(1, 0, 0, {5, 6});
    (*journal)->AddTokens(2, 1, 0, {7});
    (*journal)->AddDone({.key = 3, .id = "\"c\"", .line = "{\"id\":\"c\"}"});
    ASSERT_TRUE((*journal)->Commit().ok());
    (*journal)->AddTokens(1, 0, 2, {8});
    (*journal)->AddDone({.key = 2, .id = "2", .failed = true, .line = "x"});
    ASSERT_TRUE((*journal)->Commit().ok());
    (*journal)->AddTokens(9, 0, 0, {1});  // never committed
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

TEST_F(BatchJournalTest, TellsAValueOfItsHeader) {
  EXPECT_EQ(BatchJournal::HeaderValue(path(), "time"), std::nullopt);
  Write("no journal\n");
  EXPECT_EQ(BatchJournal::HeaderValue(path(), "time"), std::nullopt);
  Write("");
  ASSERT_TRUE(Open({{"model", "m"}, {"time", "t"}}).ok());
  EXPECT_EQ(BatchJournal::HeaderValue(path(), "time"), "t");
  EXPECT_EQ(BatchJournal::HeaderValue(path(), "zone"), std::nullopt);
}

TEST_F(BatchJournalTest, CutAnywhereItKeepsTheWholeRecordsBefore) {
  {
    auto journal = Open();
    ASSERT_TRUE(journal.ok());
    for (uint64_t key = 1; key <= 4; ++key) {
      (*journal)->AddDone({.key = key, .id = "1", .line = "{\"n\":\"\\n\"}"});
      (*journal)->AddTokens(100 + key, 0, 0, {1, 2, 3});
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

TEST_F(BatchJournalTest, TokensTakeThePlaceOfThoseFromAPositionOn) {
  {
    auto journal = Open();
    (*journal)->AddTokens(1, 0, 0, {5, 6, 7});
    (*journal)->AddTokens(1, 0, 2, {8, 9});
    ASSERT_TRUE((*journal)->Commit().ok());
  }
  auto journal = Open();
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_EQ((*journal)->progress().at({1, 0}), (std::vector<int32_t>{5, 6, 8, 9}));
}

TEST_F(BatchJournalTest, ReadsRecordsWithoutAPosition) {
  Write(Record(R"({"tandem_batch_journal":1,"model":"m"})") +
        Record(R"({"k":"0000000000000001","t":[5,6]})") +
        Record(R"({"k":"0000000000000001","t":[7]})"));
  auto journal = Open();
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_EQ((*journal)->progress().at({1, 0}), (std::vector<int32_t>{5, 6, 7}));
}

TEST_F(BatchJournalTest, DamageBeforeTheEndIsRefusedAndNothingIsCut) {
  {
    auto journal = Open();
    for (uint64_t key = 1; key <= 3; ++key) {
      (*journal)->AddDone({.key = key, .id = "1", .line = "line"});
    }
    ASSERT_TRUE((*journal)->Commit().ok());
  }
  const std::string whole = Text();
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t at = 0; at < last; ++at) {
    std::string damaged = whole;
    damaged[at] ^= 1;
    Write(damaged);
    const auto journal = Open();
    // Where a line's end is lost, the next is lost with it: none is behind the last two.
    if (at == last - 1) {
      EXPECT_TRUE(journal.ok()) << journal.status();
      continue;
    }
    EXPECT_EQ(journal.status().code(), absl::StatusCode::kDataLoss) << at;
    const size_t line = at == 0 ? 0 : whole.rfind('\n', at - 1) + 1;
    EXPECT_THAT(std::string(journal.status().message()),
                HasSubstr(path() + ": byte " + std::to_string(line) + ": found a damaged record"));
    EXPECT_EQ(Text(), damaged);
  }
}

TEST_F(BatchJournalTest, ADamagedLastRecordEndsIt) {
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

TEST_F(BatchJournalTest, TokensBehindAMissingRecordAreRefused) {
  const std::string header = Record(R"({"tandem_batch_journal":1,"model":"m"})");
  Write(header + Record(R"({"k":"0000000000000001","from":0,"t":[5,6]})") +
        Record(R"({"k":"0000000000000001","from":3,"t":[8]})"));
  const auto journal = Open();
  EXPECT_EQ(journal.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(journal.status().message()),
              HasSubstr("found tokens from 3 on of a row that has 2"));
}

TEST_F(BatchJournalTest, IsWrittenAgainWhereItHasLostItsName) {
  auto journal = Open();
  (*journal)->AddDone({.key = 1, .id = "1", .line = "first"});
  ASSERT_TRUE((*journal)->Commit().ok());
  EXPECT_TRUE((*journal)->Check().ok());
  const std::string text = Text();
  std::filesystem::remove(path());
  absl::Status lost = (*journal)->Check();
  EXPECT_EQ(lost.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(lost.message()), HasSubstr("it has been written again"));
  EXPECT_EQ(Text(), text);
  // Another file is not touched.
  Write("of somebody");
  lost = (*journal)->Check();
  EXPECT_EQ(lost.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(lost.message()), HasSubstr("another file in its place"));
  EXPECT_EQ(Text(), "of somebody");
}

TEST_F(BatchJournalTest, NoticesThatItWasCutOrWrittenTo) {
  auto journal = Open();
  const auto size = std::filesystem::file_size(path());
  for (const auto other : {size - 1, size + 1}) {
    std::filesystem::resize_file(path(), other);
    EXPECT_EQ((*journal)->Check().code(), absl::StatusCode::kAborted) << other;
  }
  std::filesystem::resize_file(path(), size);
  EXPECT_TRUE((*journal)->Check().ok());
}

TEST_F(BatchJournalTest, OnlyItsOwnerReadsIt) {
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(std::filesystem::status(path()).permissions(), std::filesystem::perms(0600));
}

TEST_F(BatchJournalTest, RefusesAnotherHeaderAndOtherFiles) {
  ASSERT_TRUE(Open().ok());
  const auto other = Open({{"model", "other"}});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.status().message()),
              HasSubstr("model: found \"m\", expected \"other\""));
  const auto more = Open({{"model", "m"}, {"device", "cuda"}});
  EXPECT_THAT(std::string(more.status().message()),
              HasSubstr("device: found nothing, expected \"cuda\""));
  const auto less = Open({});
  EXPECT_THAT(std::string(less.status().message()),
              HasSubstr("model: found \"m\", expected nothing"));
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
  void Start(bool ordered) { Start(ordered, {Row(1, 10), Row(2, 30), Row(3, 20)}); }
  void Start(bool ordered, std::vector<BatchRow> rows) {
    coordinator_.reset();
    results_.reset();  // with their locks
    errors_.reset();
    journal_.reset();
    journal_ = *Open();
    results_ = std::make_unique<ResultFile>(folder_ + "/out", kLockWait);
    errors_ = std::make_unique<ResultFile>(folder_ + "/errors", kLockWait);
    coordinator_ = std::make_unique<BatchCoordinator>(std::move(rows), *journal_, *results_,
                                                      *errors_, ordered);
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

TEST_F(BatchCoordinatorTest, FlushNoticesWhatHappensToItsFiles) {
  for (const char* name : {"/out", "/errors", "/out.journal"}) {
    Start(false);
    const auto key = static_cast<uint64_t>(coordinator_->Next()->row.key);
    coordinator_->Finish(key, name == std::string("/errors"),
                         "{\"id\":" + std::to_string(key) + "}");
    ASSERT_TRUE(coordinator_->Flush(true).ok());
    std::filesystem::rename(folder_ + name, folder_ + "/moved");
    const absl::Status lost = coordinator_->Flush(false);
    EXPECT_EQ(lost.code(), absl::StatusCode::kAborted) << name;
    EXPECT_THAT(std::string(lost.message()), HasSubstr(folder_ + name + ": found it removed"));
    if (name == std::string("/out.journal")) break;  // it is there again
    std::filesystem::rename(folder_ + "/moved", folder_ + name);
    EXPECT_TRUE(coordinator_->Flush(false).ok());
  }
  Start(false);
  EXPECT_EQ(coordinator_->counts().before, 3);
}

// The journal's last record is damaged: its row is made again, and takes its line's place.
TEST_F(BatchCoordinatorTest, RowsOfADamagedEndAreMadeAgain) {
  Start(false);
  coordinator_->Finish(2, false, R"({"id":2})");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  coordinator_->Finish(3, false, R"({"id":3})");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  coordinator_.reset();
  std::string text = Text();
  text[text.size() - 4] ^= 1;
  Write(text);
  Start(false);
  ASSERT_TRUE(restored_.ok()) << restored_;
  EXPECT_EQ(Results(), "{\"id\":2}\n");
  EXPECT_EQ(coordinator_->counts().before, 1);
  // Lines of other rows than those are not touched.
  coordinator_->Finish(3, false, R"({"id":3})");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  text = Text();
  text[text.size() - 4] ^= 1;
  Write(text);
  std::ofstream(folder_ + "/out", std::ios::binary | std::ios::app) << "{\"id\":9}\n";
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

TEST_F(BatchCoordinatorTest, OrderedResultsMakeRoomForRowsThatHaveComeInBetween) {
  Start(true, {Row(1, 10), Row(3, 20), Row(4, 20)});
  coordinator_->Finish(1, false, "one");
  coordinator_->Finish(3, false, "three");
  coordinator_->Finish(4, false, "four");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  for (const std::string& tail : {std::string(), std::string("\nfo"), std::string("\0\0", 2)}) {
    std::ofstream(folder_ + "/out", std::ios::binary | std::ios::trunc) << "one\nthree" << tail;
    Start(true, {Row(1, 10), Row(2, 30), Row(3, 20), Row(4, 20)});
    ASSERT_TRUE(restored_.ok()) << restored_;
    EXPECT_EQ(Results(), "one\n");
    EXPECT_EQ(coordinator_->counts().before, 3);
  }
  coordinator_->Finish(2, false, "two");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  EXPECT_EQ(Results(), "one\ntwo\nthree\nfour\n");
  // What the journal does not know stays.
  std::ofstream(folder_ + "/out", std::ios::binary | std::ios::trunc) << "one\nthree\nfive\n";
  Start(true, {Row(1, 10), Row(2, 30), Row(3, 20), Row(4, 20)});
  EXPECT_EQ(restored_.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Results(), "one\nthree\nfive\n");
}

TEST_F(BatchCoordinatorTest, ATokenThatIsMadeAgainDifferentlyTakesItsPlace) {
  Start(false);
  coordinator_->AddTokens(1, 0, {4, 5});
  ASSERT_TRUE(coordinator_->Flush(true).ok());
  Start(false);
  for (const uint64_t key : {2u, 3u, 1u}) EXPECT_EQ(coordinator_->Next()->row.key, key);
  coordinator_->AddTokens(1, 0, {6});
  ASSERT_TRUE(coordinator_->Flush(true).ok());
  coordinator_->AddTokens(1, 0, {7, 8});
  ASSERT_TRUE(coordinator_->Flush(true).ok());
  Start(false);
  for (const uint64_t key : {2u, 3u}) EXPECT_EQ(coordinator_->Next()->row.key, key);
  EXPECT_EQ(coordinator_->Next()->tokens[0], (std::vector<int32_t>{4, 6, 7}));
}

TEST_F(BatchCoordinatorTest, AnErrorsFileIsOneJobs) {
  Start(false);
  ResultFile other(folder_ + "/errors", kLockWait);
  ASSERT_TRUE(other.Restore("").ok());
  coordinator_->Finish(1, true, "mine");
  ASSERT_TRUE(coordinator_->Flush(false).ok());
  EXPECT_EQ(other.Append("another's\n").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ResultFile(folder_ + "/errors", kLockWait).Restore("").code(),
            absl::StatusCode::kUnavailable);
  coordinator_.reset();
  errors_.reset();
  EXPECT_EQ(other.Append("another's\n").code(), absl::StatusCode::kAborted);
  std::ifstream file(folder_ + "/errors", std::ios::binary);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "mine\n");
}

}  // namespace
}  // namespace tandem::batch
