// Appending to files such that whatever fails, what was there before stays valid.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tandem::server {

// ABORTED (exit 74): "PATH: WHAT: errno's text".
absl::Status FileError(const std::string& path, absl::string_view what);

// The whole of an open file.
absl::StatusOr<std::string> ReadWhole(int fd, const std::string& path);

// Writes `bytes` at `offset`, the file's end, and waits for the disk. ABORTED where that fails,
// with the file cut back to `offset` as far as that is possible.
absl::Status WriteAndSync(int fd, const std::string& path, int64_t offset, absl::string_view bytes);

// A file of results, which is what a sequence of lines makes of it.
class ResultFile {
 public:
  // Nothing is opened or made before there is a line.
  explicit ResultFile(std::string path) : path_(std::move(path)) {}
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  const std::string& path() const { return path_; }

  // Brings the file to `expected`, of which it must be a beginning: a tail that is cut short or
  // that a crash of the machine left as zeros is replaced. FAILED_PRECONDITION where it holds
  // something else, ABORTED where it cannot be written.
  absl::Status Restore(absl::string_view expected);

  // Appends whole lines, on disk when it returns.
  absl::Status Append(absl::string_view lines);

 private:
  absl::Status Open();

  const std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
};

}  // namespace tandem::server
