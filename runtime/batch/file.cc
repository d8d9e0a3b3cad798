#include "runtime/batch/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::batch {
namespace {

// Whether the file's tail from `at` on is zeros of a crash, after lines of `later`, the last of
// which may be cut short.
bool MayBeCut(absl::string_view found, size_t at, const ResultFile::Later& later) {
  while (!found.empty() && found.back() == '\0') found.remove_suffix(1);
  if (found.size() <= at) return true;
  found.remove_prefix(at == 0 ? 0 : found.rfind('\n', at - 1) + 1);
  for (size_t end = found.find('\n'); end != found.npos; end = found.find('\n')) {
    const absl::string_view line = found.substr(0, end);
    if (later.lines.count(line) == 0 && !(later.made_again && later.made_again(line))) return false;
    found.remove_prefix(end + 1);
  }
  const auto whole = later.lines.lower_bound(found);
  return found.empty() || later.made_again ||
         (whole != later.lines.end() && absl::StartsWith(*whole, found));
}

}  // namespace

absl::Status FileError(const std::string& path, absl::string_view what) {
  return absl::AbortedError(absl::StrCat(path, ": ", what, ": ", std::strerror(errno)));
}

absl::Status LockFile(int fd, const std::string& path, std::chrono::milliseconds wait) {
  const auto deadline = std::chrono::steady_clock::now() + wait;
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return FileError(path, "cannot be locked");
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::UnavailableError(
          absl::StrCat(path, ": another job has it open; wait for its end, or end it"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return absl::OkStatus();
}

absl::Status CheckInPlace(int fd, const std::string& path, int64_t size) {
  struct stat ours {
  }, there{};
  if (fstat(fd, &ours) != 0) return FileError(path, "cannot be read");
  if (!S_ISREG(ours.st_mode)) return absl::OkStatus();
  std::string what;
  if (stat(path.c_str(), &there) != 0) {
    if (errno != ENOENT && errno != ENOTDIR) return FileError(path, "cannot be found");
    what = "it removed or moved";
  } else if (there.st_dev != ours.st_dev || there.st_ino != ours.st_ino) {
    what = "another file in its place";
  } else if (ours.st_size != size) {
    what = absl::StrCat(ours.st_size, " bytes of the ", size, " that this job has written");
  } else {
    return absl::OkStatus();
  }
  return absl::AbortedError(
      absl::StrCat(path, ": found ", what, ", expected it untouched while the job runs"));
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

absl::Status ResultFile::Restore(absl::string_view expected, const Later& later) {
  struct stat there {};
  if (expected.empty() && stat(path_.c_str(), &there) != 0) return absl::OkStatus();
  return Begin(expected, later);
}

absl::Status ResultFile::Begin(absl::string_view expected, const Later& later) {
  fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) return FileError(path_, "cannot be opened");
  const absl::Status status = BringTo(expected, later);
  if (!status.ok()) close(std::exchange(fd_, -1));
  return status;
}

absl::Status ResultFile::BringTo(absl::string_view expected, const Later& later) {
  struct stat kind {};
  if (fstat(fd_, &kind) != 0) return FileError(path_, "cannot be opened");
  if (S_ISREG(kind.st_mode)) {
    TANDEM_RETURN_IF_ERROR(LockFile(fd_, path_, lock_wait_));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string found, ReadWhole(fd_, path_));
  const size_t common = static_cast<size_t>(
      std::mismatch(found.begin(), found.begin() + std::min(found.size(), expected.size()),
                    expected.begin())
          .first -
      found.begin());
  if (!MayBeCut(found, common, later)) {
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

absl::Status ResultFile::Check() const {
  if (fd_ < 0) return absl::OkStatus();
  const absl::Status checked = CheckInPlace(fd_, path_, size_);
  if (checked.ok()) return checked;
  return absl::AbortedError(
      absl::StrCat(std::string(checked.message()),
                   "; remove what is there now and run the same command again: the journal has all "
                   "that was written"));
}

absl::Status ResultFile::Append(absl::string_view lines) {
  if (lines.empty()) return absl::OkStatus();
  if (fd_ < 0) {
    const absl::Status status = Begin(lines, {});
    return status.ok() ? status : absl::AbortedError(status.message());
  }
  TANDEM_RETURN_IF_ERROR(WriteAndSync(fd_, path_, size_, lines));
  size_ += static_cast<int64_t>(lines.size());
  return absl::OkStatus();
}

}  // namespace tandem::batch
