// Where a replica of a batch job gets its rows from and tells what comes of them: the coordinator
// itself, or a link to it (batch_link.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/batch/row.h"

namespace tandem::batch {

// A row to run, with the tokens that each choice has already.
struct Assignment {
  BatchRow row;
  std::vector<std::vector<int32_t>> tokens;  // [choices]
};

class BatchFeed {
 public:
  virtual ~BatchFeed() = default;

  // The next row; nullopt when there is none now. The last known token of a choice is left out:
  // made again, it ends the choice if it had ended it before.
  virtual std::optional<Assignment> Next() = 0;

  // Any thread; these do not wait.
  virtual void AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) = 0;
  // A row is over, with its line of results or errors.
  virtual void Finish(uint64_t key, bool failed, std::string line) = 0;

  // Waits until a row is over, or there is news, or the time is up.
  virtual void Wait(std::chrono::milliseconds longest) = 0;
  // Brings what has come to where it is safe; tokens of unfinished rows only where `with_tokens`.
  virtual absl::Status Flush(bool with_tokens) = 0;

  // No row is left and none will come.
  virtual bool all_done() const = 0;
  // Why to stop before; empty: go on.
  virtual std::string stop_reason() const { return ""; }
};

}  // namespace tandem::batch
