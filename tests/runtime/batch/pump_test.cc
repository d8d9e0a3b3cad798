#include "runtime/batch/pump.h"

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::batch {
namespace {

using Ending = PumpResult::Ending;
using ::testing::ElementsAre;

// Rows that exist by number only.
class FakeSource : public RowSource {
 public:
  explicit FakeSource(int64_t rows) : queued(rows), left(rows) {}
  std::optional<Assignment> Next() override {
    if (queued == 0) return std::nullopt;
    --queued;
    return Assignment();
  }
  void AddTokens(uint64_t, int32_t, const std::vector<int32_t>&) override {}
  void Finish(uint64_t, bool, std::string) override { --left; }
  void Wait(std::chrono::milliseconds) override {}
  absl::Status Flush(bool with_tokens) override {
    ++flushes;
    flushed_tokens = with_tokens;
    return flush_error;
  }
  int64_t rows_left() const override { return left; }
  bool all_done() const override { return left == 0; }
  std::string stop_reason() const override { return reason; }

  int64_t queued, left;
  int flushes = 0;
  bool flushed_tokens = false;
  absl::Status flush_error;
  std::string reason;
};

// Finishes the rows of a turn at once.
class FakeWorker : public Worker {
 public:
  explicit FakeWorker(int replicas) : replicas_(replicas) {}
  int replicas() const override { return replicas_; }
  absl::Status TakeRows(RowSource& source, int64_t most) override {
    limits.push_back(most);
    if (!error.ok()) return error;
    for (int64_t i = 0; i < most * replicas_ && source.Next().has_value(); ++i) {
      source.Finish(0, false, "");
    }
    return absl::OkStatus();
  }
  absl::Status error;
  std::vector<int64_t> limits;

 private:
  const int replicas_;
};

TEST(PumpTest, EveryReplicaGetsItsPartOfTheRowsUntilAllAreDone) {
  FakeSource source(10);
  FakeWorker one(1), two(2);
  const PumpResult result = PumpRows({.source = source, .workers = {&two, &one}});
  EXPECT_EQ(result.ending, Ending::kAllDone);
  EXPECT_EQ(source.left, 0);
  EXPECT_THAT(two.limits, ElementsAre(4));
  EXPECT_THAT(one.limits, ElementsAre(4));
  EXPECT_TRUE(source.flushed_tokens);  // at the end
}

TEST(PumpTest, NoRowsAreDoneAtOnce) {
  FakeSource source(0);
  EXPECT_EQ(PumpRows({.source = source}).ending, Ending::kAllDone);
}

TEST(PumpTest, AStopIsReportedAndWhatIsKnownIsFlushed) {
  FakeSource source(3);
  source.reason = "asked to";
  FakeWorker worker(1);
  const PumpResult result = PumpRows({.source = source, .workers = {&worker}});
  EXPECT_EQ(result.ending, Ending::kStopped);
  EXPECT_EQ(result.stop_reason, "asked to");
  EXPECT_TRUE(worker.limits.empty());
  EXPECT_EQ(source.flushes, 1);
}

TEST(PumpTest, AWorkersFailureEndsTheJobAfterAFlush) {
  FakeSource source(3);
  source.flush_error = absl::AbortedError("disk full");
  FakeWorker worker(1);
  worker.error = absl::InternalError("rank 1 has died");
  const PumpResult result = PumpRows({.source = source, .workers = {&worker}});
  EXPECT_EQ(result.ending, Ending::kWorkerFailed);
  EXPECT_EQ(result.error.message(), "rank 1 has died");
  EXPECT_EQ(source.flushes, 1);
}

TEST(PumpTest, OutputThatCannotBeWrittenEndsTheJob) {
  FakeSource source(3);
  source.flush_error = absl::AbortedError("disk full");
  FakeWorker idle(0);
  const PumpResult result = PumpRows({.source = source, .workers = {&idle}});
  EXPECT_EQ(result.ending, Ending::kOutputFailed);
  EXPECT_EQ(result.error.message(), "disk full");
  EXPECT_EQ(source.flushes, 1);  // not tried again
}

TEST(PumpTest, OutputThatFailsInTheLastFlushCountsToo) {
  FakeSource source(0);
  source.flush_error = absl::AbortedError("disk full");
  EXPECT_EQ(PumpRows({.source = source}).ending, Ending::kOutputFailed);
  source.left = 1;
  source.reason = "asked to";
  EXPECT_EQ(PumpRows({.source = source}).ending, Ending::kOutputFailed);
}

}  // namespace
}  // namespace tandem::batch
