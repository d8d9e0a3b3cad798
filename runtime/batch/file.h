// Appending to files such that whatever fails, what was there before stays valid.
#pragma once

#include <chrono>
#include <cstdint>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tandem::batch {

// ABORTED (exit 74): "PATH: WHAT: errno's text".
absl::Status FileError(const std::string& path, absl::string_view what);

// Locks an open file, by a lock of the kernel that goes with it; waits up to `wait` for whoever has
// it. UNAVAILABLE where that one does not go.
absl::Status LockFile(int fd, const std::string& path, std::chrono::milliseconds wait);

// The whole of an open file.
absl::StatusOr<std::string> ReadWhole(int fd, const std::string& path);

// Writes `bytes` at `offset`, the file's end, and waits for the disk. ABORTED where that fails,
// with the file cut back to `offset` as far as that is possible.
absl::Status WriteAndSync(int fd, const std::string& path, int64_t offset, absl::string_view bytes);

// A file of results, which is what a sequence of lines makes of it. A regular one is locked while
// it is open: another job may have been given the same.
class ResultFile {
 public:
  // Nothing is opened or made before there is a line. Opening waits up to `lock_wait` for another
  // job, then it is UNAVAILABLE.
  ResultFile(std::string path, std::chrono::milliseconds lock_wait)
      : path_(std::move(path)), lock_wait_(lock_wait) {}
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  const std::string& path() const { return path_; }

  // Brings the file to `expected`, of which it must be a beginning: a tail that is cut short or
  // that a crash of the machine left as zeros is replaced. So are lines of `later`, without their
  // ends, which will be appended again. FAILED_PRECONDITION where it holds something else, ABORTED
  // where it cannot be written.
  absl::Status Restore(absl::string_view expected, const std::set<absl::string_view>& later = {});

  // Appends whole lines, on disk when it returns. ABORTED where that fails, or where another job
  // has made the file since Restore.
  absl::Status Append(absl::string_view lines);

 private:
  absl::Status Begin(absl::string_view expected, const std::set<absl::string_view>& later);
  absl::Status BringTo(absl::string_view expected, const std::set<absl::string_view>& later);

  const std::string path_;
  const std::chrono::milliseconds lock_wait_;
  int fd_ = -1;
  int64_t size_ = 0;
};

}  // namespace tandem::batch
