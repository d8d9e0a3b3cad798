// The state of every row of a batch job. Gives rows out, the longest first; collects tokens and
// results, and writes them in groups: first to the journal, and when that is on disk, to the
// results. Thread-safe. Flush waits for the disk, nothing else does.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/batch/file.h"
#include "runtime/batch/journal.h"
#include "runtime/batch/row.h"
#include "runtime/batch/row_source.h"

namespace tandem::batch {

struct BatchCounts {
  int64_t rows = 0;               // of the input
  int64_t before = 0;             // done by earlier invocations, failed ones included
  int64_t finished = 0;           // by this one, without failed ones
  int64_t failed = 0;             // of the input, by any invocation
  int64_t failed_now = 0;         // by this one
  int64_t prompt_tokens = 0;      // of rows that this one finished
  int64_t completion_tokens = 0;  // that this one generated
  int64_t left() const { return rows - before - finished - failed_now; }
};

class BatchCoordinator : public RowSource {
 public:
  // A row that cannot be computed.
  struct BadRow {
    uint64_t key = 0;
    std::string id;
    std::string line;  // of errors
  };

  // `rows` in the order of the input. All borrowed things outlive it.
  BatchCoordinator(std::vector<BatchRow> rows, BatchJournal& journal, ResultFile& results,
                   ResultFile& errors, bool ordered);

  // Call it first: brings the files to what the journal says and enters the rows that cannot be
  // computed. FAILED_PRECONDITION where a row was done with another text.
  absl::Status Restore(const std::vector<BadRow>& bad);

  std::optional<Assignment> Next() override;
  // Takes back a row that its replica will not finish.
  void Return(uint64_t key);

  void AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) override;
  void Finish(uint64_t key, bool failed, std::string line) override;
  void Wait(std::chrono::milliseconds longest) override;
  // To the journal, then to the results, each on disk when it returns. ABORTED where that fails, or
  // where somebody has removed, replaced or changed one of the files.
  absl::Status Flush(bool with_tokens) override;
  int64_t rows_left() const override;
  bool all_done() const override;
  // Ends a Wait: there is something new to write or to give out.
  void Wake();
  BatchCounts counts() const;

 private:
  struct State {
    bool finished = false;
    bool committed = false;  // finished, and in the journal
    bool assigned = false;
    std::vector<BatchJournal::Tokens> tokens;  // [choices], known
    std::vector<size_t> journaled;             // how many of them are in the journal
    std::string line;                          // ordered: of the results, until it is written
  };

  absl::Status CheckFiles() const;
  std::string TakeReady();  // ordered: lines of results up to the first row that has none

  const std::vector<BatchRow> rows_;
  BatchJournal& journal_;
  ResultFile& results_;
  ResultFile& errors_;
  const bool ordered_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, size_t> by_key_;  // into rows_
  std::vector<State> states_;          // as rows_
  std::vector<size_t> queue_;          // rows to give out, the next one last
  std::vector<BatchJournal::Done> new_done_;
  std::vector<size_t> touched_;  // rows with tokens that are not in the journal
  size_t next_ordered_ = 0;
  bool woken_ = false;
  BatchCounts counts_;
};

}  // namespace tandem::batch
