// What a batch job has done so far, in an append-only file: whoever was killed at any instant finds
// it again. Finished rows are in it with their whole line of output, unfinished ones with the
// tokens they had. The files of results follow from it (batch_output.h).
//
// A record is a line, "HASH JSON": the XXH64 of the JSON in 16 hex digits. The first record is the
// header: what results depend on beside the rows. A tail without a whole record is what a kill left
// and is cut off: nothing in it was committed, since commits wait for the disk. A damaged record
// with whole ones behind it is another matter, and refused.
//
// The file is locked while it is open, by a lock of the kernel that goes with the process.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::batch {

// Names and values of what a job's results depend on.
using JournalHeader = std::vector<std::pair<std::string, std::string>>;

class BatchJournal {
 public:
  // A row that is over.
  struct Done {
    uint64_t key = 0;
    std::string id;  // as JSON; empty where the row had none
    bool failed = false;
    std::string line;  // of results or of errors, without its end
  };
  using Tokens = std::vector<int32_t>;

  // Opens or makes it, locked, repaired and read; waits up to `lock_wait` for whoever has it.
  // UNAVAILABLE where that one does not go; FAILED_PRECONDITION where the header is another,
  // naming the first difference; INVALID_ARGUMENT for a file that is no journal; DATA_LOSS for one
  // that is damaged before its end, which stays as it is; ABORTED where it cannot be read or
  // written.
  static absl::StatusOr<std::unique_ptr<BatchJournal>> Open(const std::string& path,
                                                            const JournalHeader& header,
                                                            std::chrono::milliseconds lock_wait);
  ~BatchJournal();
  BatchJournal(const BatchJournal&) = delete;
  BatchJournal& operator=(const BatchJournal&) = delete;

  bool is_new() const { return is_new_; }
  // As read, in the order in which they were done; later ones are not added.
  std::vector<Done>& done() { return done_; }
  // Of rows that are not done: tokens by (row, choice).
  const std::map<std::pair<uint64_t, int32_t>, Tokens>& progress() const { return progress_; }

  // Collected until Commit.
  void AddDone(const Done& done);
  // `tokens` are the choice's from position `from` on, in place of those that were there.
  void AddTokens(uint64_t key, int32_t choice, size_t from, const Tokens& tokens);
  bool has_uncommitted() const { return !pending_.empty(); }

  // On disk when it returns. ABORTED where that failed: what had been committed stays valid.
  absl::Status Commit();

 private:
  BatchJournal(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Read(const JournalHeader& header);
  void Add(const std::string& json);

  const std::string path_;
  const int fd_;
  bool is_new_ = false;
  int64_t size_ = 0;  // committed
  std::string pending_;
  std::vector<Done> done_;
  std::map<std::pair<uint64_t, int32_t>, Tokens> progress_;
};

}  // namespace tandem::batch
