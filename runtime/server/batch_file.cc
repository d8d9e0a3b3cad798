#include "runtime/server/batch_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {

absl::Status FileError(const std::string& path, absl::string_view what) {
  return absl::AbortedError(absl::StrCat(path, ": ", what, ": ", std::strerror(errno)));
}

absl::StatusOr<std::string> ReadWhole(int fd, const std::string& path) {
  std::string text;
  struct stat kind {};
  if (fstat(fd, &kind) != 0) return FileError(path, "cannot be read");
  if (!S_ISREG(kind.st_mode)) return text;  // a device: nothing to find again
  int64_t offset = 0;
  text.resize(1 << 16);
  while (true) {
    if (static_cast<size_t>(offset) == text.size()) text.resize(2 * text.size());
    const ssize_t count = pread(fd, text.data() + offset, text.size() - offset, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FileError(path, "cannot be read");
    if (count == 0) break;
    offset += count;
  }
  text.resize(offset);
  return text;
}

absl::Status WriteAndSync(int fd, const std::string& path, int64_t offset,
                          absl::string_view bytes) {
  absl::Status failure;
  for (size_t done = 0; done < bytes.size() && failure.ok();) {
    ssize_t count =
        pwrite(fd, bytes.data() + done, bytes.size() - done, offset + static_cast<int64_t>(done));
    if (count < 0 && errno == ESPIPE) count = write(fd, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      failure = FileError(path, "cannot be written");
    } else if (count == 0) {
      errno = ENOSPC;
      failure = FileError(path, "cannot be written");
    } else {
      done += static_cast<size_t>(count);
    }
  }
  // Pipes and devices have nothing to wait for.
  if (failure.ok() && fdatasync(fd) != 0 && errno != EINVAL && errno != EROFS) {
    failure = FileError(path, "cannot be written");
  }
  if (!failure.ok()) (void)!ftruncate(fd, offset);
  return failure;
}

ResultFile::~ResultFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status ResultFile::Open() {
  if (fd_ >= 0) return absl::OkStatus();
  fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) return FileError(path_, "cannot be opened");
  return absl::OkStatus();
}

absl::Status ResultFile::Restore(absl::string_view expected) {
  struct stat there {};
  if (expected.empty() && stat(path_.c_str(), &there) != 0) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(Open());
  TANDEM_ASSIGN_OR_RETURN(const std::string found, ReadWhole(fd_, path_));
  const size_t common = static_cast<size_t>(
      std::mismatch(found.begin(), found.begin() + std::min(found.size(), expected.size()),
                    expected.begin())
          .first -
      found.begin());
  if (found.find_first_not_of('\0', common) != std::string::npos) {
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ": byte ", common,
        ": found results that the journal beside it does not know, expected none; give another "
        "--output, or remove it"));
  }
  size_ = static_cast<int64_t>(common);
  if (common < found.size() && ftruncate(fd_, size_) != 0) {
    return FileError(path_, "cannot be repaired");
  }
  return Append(expected.substr(common));
}

absl::Status ResultFile::Append(absl::string_view lines) {
  if (lines.empty()) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(Open());
  TANDEM_RETURN_IF_ERROR(WriteAndSync(fd_, path_, size_, lines));
  size_ += static_cast<int64_t>(lines.size());
  return absl::OkStatus();
}

}  // namespace tandem::server
