// Memory that the ranks of one host share. It has no name in any file system (memfd), so nothing is
// left behind when ranks are killed, and the small /dev/shm of containers does not bound it.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::parallel {

class ShmSegment {
 public:
  ShmSegment() = default;
  ShmSegment(ShmSegment&& other) noexcept { *this = std::move(other); }
  ShmSegment& operator=(ShmSegment&& other) noexcept;
  ~ShmSegment();

  // Has no pages yet; it grows with Allocate up to `bytes`.
  static absl::StatusOr<ShmSegment> Create(size_t bytes);
  // The segment that another process of this user created and allocated to its end, by its handle.
  // FAILED_PRECONDITION where
  // the handle means nothing here: another host, or another PID namespace.
  static absl::StatusOr<ShmSegment> Open(const std::string& handle, size_t bytes);

  // For Open in other processes, while this segment is not sealed.
  std::string handle() const;
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  // Makes the pages of [begin, begin + bytes), zeroed, on this thread's NUMA node: a write to pages
  // that cannot be made is a SIGBUS. RESOURCE_EXHAUSTED if there is not enough.
  absl::Status Allocate(size_t begin, size_t bytes);

  // No more Open and Allocate.
  void Seal();

 private:
  int fd_ = -1;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tandem::parallel
