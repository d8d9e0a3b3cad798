#include "launcher/command/eval_logits_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "runtime/rank/exit_code.h"

namespace tandem::launcher {

absl::StatusOr<LogitsFile> LogitsFile::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    return rank::OutputError(absl::StrCat(path, ": cannot be written: ", std::strerror(errno)));
  }
  return LogitsFile(path, fd);
}

absl::StatusOr<LogitsFile> LogitsFile::CreateTemporary() {
  const char* folder = std::getenv("TMPDIR");
  std::string path =
      absl::StrCat(folder != nullptr && *folder != '\0' ? folder : "/tmp", "/tandem_logits_XXXXXX");
  const int fd = mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) {
    return rank::OutputError(absl::StrCat(path, ": cannot be written: ", std::strerror(errno)));
  }
  unlink(path.c_str());
  return LogitsFile(path, fd);
}

absl::StatusOr<LogitsFile> LogitsFile::Open(const std::string& path, int64_t rows, int64_t vocab) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  LogitsFile file(path, fd);
  struct stat info;
  const int64_t expected = rows * vocab * static_cast<int64_t>(sizeof(float));
  if (fstat(fd, &info) != 0 || info.st_size != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": size: found ", info.st_size, " bytes, expected ", expected, ", the logits of ",
        rows, " tokens over ", vocab, " ids; make it with the same text, --context and --stride"));
  }
  return file;
}

LogitsFile& LogitsFile::operator=(LogitsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(written_, other.written_);
  return *this;
}

LogitsFile::~LogitsFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status LogitsFile::Write(std::span<const float> logits) {
  const char* data = reinterpret_cast<const char*>(logits.data());
  size_t left = logits.size_bytes();
  while (left > 0) {
    const ssize_t count = pwrite(fd_, data, left, static_cast<off_t>(written_));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return rank::OutputError(absl::StrCat(path_, ": writing failed: ", std::strerror(errno)));
    }
    data += count;
    left -= static_cast<size_t>(count);
    written_ += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status LogitsFile::Read(int64_t row, std::span<float> logits) const {
  char* data = reinterpret_cast<char*>(logits.data());
  size_t left = logits.size_bytes();
  uint64_t offset = static_cast<uint64_t>(row) * logits.size_bytes();
  while (left > 0) {
    const ssize_t count = pread(fd_, data, left, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return absl::DataLossError(absl::StrCat(path_, ": reading failed"));
    data += count;
    left -= static_cast<size_t>(count);
    offset += static_cast<uint64_t>(count);
  }
  if (!std::ranges::all_of(logits, [](float logit) { return std::isfinite(logit); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": row ", row,
                     ": found a logit that is not a finite number; write the reference again with "
                     "--logits"));
  }
  return absl::OkStatus();
}

absl::Status LogitsFile::Finish() {
  if (fsync(fd_) == 0 || errno == EINVAL) return absl::OkStatus();  // EINVAL: a pipe, a device
  return rank::OutputError(absl::StrCat(path_, ": writing failed: ", std::strerror(errno)));
}

}  // namespace tandem::launcher
