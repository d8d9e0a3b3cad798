// The file that `tandem eval` writes for --logits and reads for --reference-logits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::launcher {

// fp32 logits [predicted tokens, vocab], in order.
class LogitsFile {
 public:
  static absl::StatusOr<LogitsFile> Create(const std::string& path);
  // In $TMPDIR or /tmp; deleted with the object.
  static absl::StatusOr<LogitsFile> CreateTemporary();
  // INVALID_ARGUMENT where the file does not hold exactly `rows` rows of `vocab` logits.
  static absl::StatusOr<LogitsFile> Open(const std::string& path, int64_t rows, int64_t vocab);
  LogitsFile(LogitsFile&& other) noexcept { *this = std::move(other); }
  LogitsFile& operator=(LogitsFile&& other) noexcept;
  ~LogitsFile();

  absl::Status Write(std::span<const float> logits);
  // One row. INVALID_ARGUMENT where a logit is not finite.
  absl::Status Read(int64_t row, std::span<float> logits) const;
  // After the last Write: until this returns OK, the file may be lost.
  absl::Status Finish();

 private:
  LogitsFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_ = -1;
  uint64_t written_ = 0;
};

}  // namespace tandem::launcher
