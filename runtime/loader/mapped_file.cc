#include "runtime/loader/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace tandem::loader {
namespace {

// The kernel cuts a request for read-ahead at the device's window, silently and
// at 128 KiB by default, so larger ones are asked for in such pieces.
constexpr uint64_t kPrefetchBytes = 128 << 10;

size_t PageSize() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  MappedFile file;
  file.path_ = path;
  // Not blocking: a named pipe must be refused, not waited for.
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd_ < 0) {
    const std::string message = absl::StrCat(path, ": cannot open: ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  struct stat status;
  if (fstat(file.fd_, &status) != 0 || !S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": found no regular file, expected a file or a link to one"));
  }
  if (status.st_size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": size: found 0 bytes, expected a model file; download it again"));
  }
  file.size_ = static_cast<size_t>(status.st_size);
  void* address = mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, file.fd_, 0);
  if (address == MAP_FAILED) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": cannot map ", file.size_, " bytes: ", std::strerror(errno)));
  }
  file.data_ = static_cast<const std::byte*>(address);
  // Ordinary read-ahead brings in other ranks' columns. Measured with mincore for
  // a rank of 4 that takes 7 KiB of every 28 KiB row of a 64 MiB tensor (16384
  // pages, its slices lie on 7020): a mapping in normal mode brought in all
  // 16384 (60 ms); in random mode 7020, but page by page (660 ms); reads in
  // random mode 7020 (290 ms), and with Prefetch before them 7020 in 69 ms.
  madvise(address, file.size_, MADV_RANDOM);
  posix_fadvise(file.fd_, 0, 0, POSIX_FADV_RANDOM);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    Close();
    fd_ = std::exchange(other.fd_, -1);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    path_ = std::move(other.path_);
  }
  return *this;
}

MappedFile::~MappedFile() { Close(); }

void MappedFile::Close() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) close(fd_);
  data_ = nullptr;
  fd_ = -1;
}

absl::Status MappedFile::Read(uint64_t offset, size_t length, void* dst) const {
  TANDEM_CHECK(offset <= size_ && length <= size_ - offset);
  char* to = static_cast<char*>(dst);
  while (length > 0) {
    const ssize_t got = pread(fd_, to, length, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return absl::DataLossError(absl::StrCat(
          path_, ": byte ", offset, ": found ", got < 0 ? std::strerror(errno) : "the file's end",
          ", expected ", length, " more bytes; the file changed or its disk fails"));
    }
    to += got;
    offset += static_cast<uint64_t>(got);
    length -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

void MappedFile::Prefetch(uint64_t offset, size_t length) const {
  TANDEM_CHECK(offset <= size_ && length <= size_ - offset);
  const uint64_t end = offset + length;
  while (offset < end) {
    const uint64_t bytes = std::min(kPrefetchBytes, end - offset);
    posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
    offset += bytes;
  }
}

absl::Status MappedFile::Populate(uint64_t offset, size_t length) const {
  TANDEM_CHECK(offset <= size_ && length <= size_ - offset);
  const size_t page = PageSize();
  const uint64_t begin = offset / page * page;
  std::byte* const address = const_cast<std::byte*>(data_) + begin;
  const uint64_t bytes = offset + length - begin;
  while (length > 0 && madvise(address, bytes, MADV_POPULATE_READ) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno != EINVAL) {
      return absl::DataLossError(absl::StrCat(path_, ": byte ", begin, ": found ",
                                              std::strerror(errno), ", expected ", bytes,
                                              " bytes; the file changed or its disk fails"));
    }
    // An older kernel: a look at each page does the same.
    for (uint64_t at = 0; at < bytes; at += page) {
      static_cast<void>(*static_cast<const volatile std::byte*>(address + at));
    }
    break;
  }
  return absl::OkStatus();
}

void MappedFile::Release(uint64_t offset, size_t length) const {
  TANDEM_CHECK(offset <= size_ && length <= size_ - offset);
  const size_t page = PageSize();
  const uint64_t begin = (offset + page - 1) / page * page;
  const uint64_t end = (offset + length) / page * page;
  if (begin < end) {
    madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
  }
}

}  // namespace tandem::loader
