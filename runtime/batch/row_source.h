// Where a replica gets its rows from and where its results go: the job's files, which the
// coordinator of this process has, or the coordinator in another process (coordinator_link.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/batch/row.h"

namespace tandem::batch {

// A row to compute, with the tokens that each choice has already.
struct Assignment {
  BatchRow row;
  std::vector<std::vector<int32_t>> tokens;  // [choices]
};

class RowSource {
 public:
  virtual ~RowSource() = default;

  // The next row; nullopt when there is none now. Of the tokens that a choice has, the last is left
  // out: generated again, it ends the choice if it had ended it before.
  virtual std::optional<Assignment> Next() = 0;
  // Any thread; these two do not wait.
  virtual void AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) = 0;
  // `line`: of the results, or where failed of the errors.
  virtual void Finish(uint64_t key, bool failed, std::string line) = 0;

  // What the worker behind this source has room for and has done, so that rows come in time and a
  // stall is noticed. `rows`: that it wants to hold; `steps`: of its engine so far.
  virtual void ReportWorker(int64_t /*rows*/, int64_t /*steps*/) {}

  // Waits until there is something new (a row is finished, a row came, the job ends) or `longest`
  // is over.
  virtual void Wait(std::chrono::milliseconds longest) = 0;
  // Passes results on to where they are safe; tokens of unfinished rows only where `with_tokens`.
  // An error means that the job's output cannot be written.
  virtual absl::Status Flush(bool with_tokens) = 0;

  // Rows that are not finished, as far as this source knows of them.
  virtual int64_t rows_left() const = 0;
  // All rows are finished.
  virtual bool all_done() const = 0;
  // Why the job stops before that; empty: it does not.
  virtual std::string stop_reason() const { return ""; }
};

}  // namespace tandem::batch
