// Appends to files. If an append fails, what was there before stays valid.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tandem::batch {

// ABORTED (exit 74): "PATH: WHAT: errno's text".
absl::Status FileError(const std::string& path, absl::string_view what);

// Locks an open file until it is closed; waits up to `wait` for another process that has it locked.
// UNAVAILABLE where that one keeps it.
absl::Status LockFile(int fd, const std::string& path, std::chrono::milliseconds wait);

// Whether an open file is still the one of its name and still has `size` bytes. ABORTED where it
// was removed, moved, replaced by another file, cut, or written to by somebody else: what this job
// would write would be lost, or would follow what is not its own. Pipes and devices always pass.
absl::Status CheckInPlace(int fd, const std::string& path, int64_t size);

// The whole of an open file.
absl::StatusOr<std::string> ReadWhole(int fd, const std::string& path);

// Writes `bytes` at `offset`, the file's end, and waits for the disk. ABORTED where that fails,
// with the file cut back to `offset` as far as that is possible.
absl::Status WriteAndSync(int fd, const std::string& path, int64_t offset, absl::string_view bytes);

// A file of results: a sequence of lines. A regular file is locked while it is open, since another
// job may have been given the same one.
class ResultFile {
 public:
  // The file is opened or created when there is a first line. That waits up to `lock_wait` for
  // another job, then it is UNAVAILABLE.
  ResultFile(std::string path, std::chrono::milliseconds lock_wait)
      : path_(std::move(path)), lock_wait_(lock_wait) {}
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  const std::string& path() const { return path_; }

  // Lines (without line ends) that may be cut off behind what is expected, since they will be
  // appended again: those of `lines`, and those for which `made_again` is true. Where that is set,
  // the last line may be cut short, whatever it is.
  struct Later {
    std::set<absl::string_view> lines;
    std::function<bool(absl::string_view line)> made_again;
  };
  // Makes the file hold `expected`, of which it must hold a beginning already. Replaces a tail that
  // is cut short or that a crash of the machine left as zeros, and whole lines of `later`.
  // FAILED_PRECONDITION where the file holds something else, ABORTED where it cannot be written.
  absl::Status Restore(absl::string_view expected, const Later& later = {});

  // Appends whole lines, which are on disk when it returns. ABORTED where that fails, or where
  // another job has created the file since Restore.
  absl::Status Append(absl::string_view lines);

  // CheckInPlace of the file, if it is open.
  absl::Status Check() const;

 private:
  absl::Status Begin(absl::string_view expected, const Later& later);
  absl::Status BringTo(absl::string_view expected, const Later& later);

  const std::string path_;
  const std::chrono::milliseconds lock_wait_;
  int fd_ = -1;
  int64_t size_ = 0;
};

}  // namespace tandem::batch
