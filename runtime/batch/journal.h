// What a batch job has done so far, in an append-only file that survives a kill at any moment.
// Finished rows are in it with their whole line of output, unfinished ones with their tokens. The
// files of results can be made from it again (file.h).
//
// A record is a line, "HASH JSON": the XXH64 of the JSON in 16 hexadecimal digits. The first record
// is the header: what results depend on beside the rows. A tail that is no whole record was left by
// a kill and is cut off: nothing in it was committed, since commits wait for the disk. A damaged
// record before whole ones is an error.
//
// The file is locked while it is open; the kernel releases the lock when the process ends.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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
  // A finished row.
  struct Done {
    uint64_t key = 0;
    std::string id;  // as JSON; empty where the row had none
    bool failed = false;
    std::string line;  // of results or of errors, without its end
  };
  using Tokens = std::vector<int32_t>;

  // Opens or creates the journal, locks, repairs and reads it; waits up to `lock_wait` for another
  // process that has it open. Errors:
  // UNAVAILABLE          the other process keeps it
  // FAILED_PRECONDITION  the header is another; names the first difference
  // INVALID_ARGUMENT     the file is no journal
  // DATA_LOSS            damaged before its end; the file stays as it is
  // ABORTED              it cannot be read or written
  static absl::StatusOr<std::unique_ptr<BatchJournal>> Open(const std::string& path,
                                                            const JournalHeader& header,
                                                            std::chrono::milliseconds lock_wait);
  // A value of the header of the journal at `path`; nullopt where there is none, or no journal.
  static std::optional<std::string> HeaderValue(const std::string& path, const std::string& name);
  ~BatchJournal();
  BatchJournal(const BatchJournal&) = delete;
  BatchJournal& operator=(const BatchJournal&) = delete;

  bool is_new() const { return is_new_; }
  // Whether a damaged end of the file was cut off: the results may have lines of rows that are not
  // in done().
  bool lost_tail() const { return lost_tail_; }
  // As read, in the order in which they were finished. AddDone does not change it.
  std::vector<Done>& done() { return done_; }
  // Tokens of unfinished rows, by (row, choice).
  const std::map<std::pair<uint64_t, int32_t>, Tokens>& progress() const { return progress_; }

  // Both collect until Commit.
  void AddDone(const Done& done);
  // `tokens` replace the choice's tokens from position `from` on.
  void AddTokens(uint64_t key, int32_t choice, size_t from, const Tokens& tokens);
  bool has_uncommitted() const { return !pending_.empty(); }

  // Everything is on disk when it returns. ABORTED where that failed: earlier commits stay valid.
  absl::Status Commit();

  // CheckInPlace of the file. Where it has lost its name, it is written again under that name, so
  // that the job can continue from it; the error says whether that worked.
  absl::Status Check() const;

 private:
  BatchJournal(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Read(const JournalHeader& header);
  void Add(const std::string& json);

  const std::string path_;
  const int fd_;
  bool is_new_ = false;
  bool lost_tail_ = false;
  int64_t size_ = 0;  // committed
  std::string pending_;
  std::vector<Done> done_;
  std::map<std::pair<uint64_t, int32_t>, Tokens> progress_;
};

}  // namespace tandem::batch
