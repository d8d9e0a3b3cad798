#include "parallel/shm_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {
namespace {

constexpr char kName[] = "tandem-ranks";

absl::Status Failed(const char* what, int error) {
  return absl::InternalError(absl::StrCat("shared memory: ", what, ": ", std::strerror(error)));
}

absl::Status NotVisible(const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat("shared memory: this rank does not see that of its host's first rank (", why,
                   "); let the ranks of a host share their PID namespace and user, or choose "
                   "--collectives mpi"));
}

absl::StatusOr<std::byte*> Map(int fd, size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return Failed("mapping", errno);
  return static_cast<std::byte*>(data);
}

}  // namespace

ShmSegment& ShmSegment::operator=(ShmSegment&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

ShmSegment::~ShmSegment() {
  Seal();
  if (data_ != nullptr) munmap(data_, bytes_);
}

void ShmSegment::Seal() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::string ShmSegment::handle() const { return absl::StrCat("/proc/", getpid(), "/fd/", fd_); }

absl::StatusOr<ShmSegment> ShmSegment::Create(size_t bytes) {
  ShmSegment segment;
  segment.fd_ = memfd_create(kName, MFD_CLOEXEC);
  if (segment.fd_ < 0 || ftruncate(segment.fd_, static_cast<off_t>(bytes)) != 0) {
    return Failed("creating", errno);
  }
  TANDEM_ASSIGN_OR_RETURN(segment.data_, Map(segment.fd_, bytes));
  segment.bytes_ = bytes;
  return segment;
}

absl::StatusOr<ShmSegment> ShmSegment::Open(const std::string& handle, size_t bytes) {
  // Elsewhere the same path may be any file, even one that may not be opened: look first.
  char target[64] = {};
  if (readlink(handle.c_str(), target, sizeof(target) - 1) < 0) {
    return NotVisible(std::strerror(errno));
  }
  if (std::strstr(target, kName) == nullptr) return NotVisible("another file is in its place");
  ShmSegment segment;
  segment.fd_ = open(handle.c_str(), O_RDWR | O_CLOEXEC);
  if (segment.fd_ < 0) return NotVisible(std::strerror(errno));
  struct stat info {};
  if (fstat(segment.fd_, &info) != 0 || static_cast<size_t>(info.st_size) != bytes) {
    return NotVisible("it has another size");
  }
  TANDEM_ASSIGN_OR_RETURN(segment.data_, Map(segment.fd_, bytes));
  segment.bytes_ = bytes;
  return segment;
}

absl::Status ShmSegment::Allocate(size_t begin, size_t bytes) {
  const int error = posix_fallocate(fd_, static_cast<off_t>(begin), static_cast<off_t>(bytes));
  if (error == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("shared memory: found less than the ", bytes, " bytes that this rank needs (",
                   std::strerror(error), "); give it more memory, or choose --collectives mpi"));
}

}  // namespace tandem::parallel
