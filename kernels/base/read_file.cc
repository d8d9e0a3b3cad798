#include "kernels/base/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem {
namespace {

// Files of unknown size (pipes, /proc) are read in steps of this many bytes.
constexpr size_t kStep = 1 << 16;

class OpenFile {
 public:
  static absl::StatusOr<OpenFile> Open(const std::string& path, int flags) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
    if (fd >= 0) return OpenFile(fd);
    const std::string message = absl::StrCat(path, ": cannot open: ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  OpenFile(OpenFile&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  OpenFile& operator=(OpenFile&&) = delete;
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }

 private:
  explicit OpenFile(int fd) : fd_(fd) {}
  int fd_;
};

absl::Status TooLarge(const std::string& name, size_t max_bytes) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": size: found more than ", max_bytes, " bytes, expected at most that"));
}

absl::Status CannotRead(const std::string& name, int error) {
  return absl::DataLossError(absl::StrCat(name, ": cannot read: ", std::strerror(error)));
}

absl::StatusOr<std::string> ReadToEnd(int fd, const std::string& path, const struct stat& status,
                                      size_t max_bytes) {
  if (S_ISREG(status.st_mode) && static_cast<uint64_t>(status.st_size) > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": size: found ", status.st_size,
                                                   " bytes, expected at most ", max_bytes));
  }
  // One byte more than the size that the file has: with it the end shows in one call.
  std::string text(S_ISREG(status.st_mode) ? static_cast<size_t>(status.st_size) + 1 : kStep, '\0');
  size_t done = 0;
  for (;;) {
    if (done == text.size()) text.resize(done + kStep);
    const ssize_t got = read(fd, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return CannotRead(path, errno);
    if (got == 0) break;
    done += static_cast<size_t>(got);
    if (done > max_bytes) return TooLarge(path, max_bytes);
  }
  text.resize(done);
  return text;
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  TANDEM_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(path, 0));
  struct stat status;
  if (fstat(file.fd(), &status) != 0) return CannotRead(path, errno);
  if (S_ISDIR(status.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": found a folder, expected a file"));
  }
  return ReadToEnd(file.fd(), path, status, max_bytes);
}

absl::StatusOr<std::string> ReadRegularFile(const std::string& path, size_t max_bytes) {
  // Without O_NONBLOCK, open would wait for a pipe's writer.
  TANDEM_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(path, O_NONBLOCK));
  struct stat status;
  if (fstat(file.fd(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": found no regular file, expected a file or a link to one"));
  }
  return ReadToEnd(file.fd(), path, status, max_bytes);
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  TANDEM_ASSIGN_OR_RETURN(std::string text, ReadFile(path, max_bytes));
  if (!text.empty()) return text;
  return absl::InvalidArgumentError(absl::StrCat(path, ": found no text, expected some"));
}

absl::StatusOr<std::string> ReadStream(std::istream& in, const std::string& name,
                                       size_t max_bytes) {
  std::string text(max_bytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (in.bad()) return absl::DataLossError(absl::StrCat(name, ": cannot be read"));
  if (text.size() > max_bytes) return TooLarge(name, max_bytes);
  return text;
}

}  // namespace tandem
