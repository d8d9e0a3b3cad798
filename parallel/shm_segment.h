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

  // Makes a segment without pages: they come with Allocate.
  static absl::StatusOr<ShmSegment> Create(size_t bytes);
  // Opens a segment by its handle, which another process of this user created. FAILED_PRECONDITION
  // where the handle is not valid here: on another host, or in another PID namespace.
  static absl::StatusOr<ShmSegment> Open(const std::string& handle, size_t bytes);

  // For Open in other processes, while this segment is not sealed.
  std::string handle() const;
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  // Makes the pages of [begin, begin + bytes), zeroed, on this thread's NUMA node. (Without this, a
  // write to a page that cannot be made is a SIGBUS.) RESOURCE_EXHAUSTED if memory is short.
  absl::Status Allocate(size_t begin, size_t bytes);

  // Ends Open and Allocate for this segment.
  void Seal();

 private:
  int fd_ = -1;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tandem::parallel
