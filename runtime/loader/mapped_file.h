// A whole file mapped for reading, and open for positioned reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::loader {

// Owns the descriptor and the mapping. Movable; safe for concurrent reads.
//
// There are two ways to read. data() is for bytes that are looked up while serving
// (embedding rows): nothing is copied, but an I/O error, or a file truncated
// after Open, is a SIGBUS. Read() is for loading: such a failure is a Status,
// and its pages never count as the process's memory.
class MappedFile {
 public:
  // Refuses what is not a regular file (symlinks are followed), an empty file
  // and one that cannot be read.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Copies bytes [offset, offset + length) to dst. The range must be inside the
  // file (TANDEM_CHECK). DataLoss when the disk or a shrunken file fails it.
  absl::Status Read(uint64_t offset, size_t length, void* dst) const;

  // Asks for pages of [offset, offset + length) to be read in the background,
  // and no other pages.
  void Prefetch(uint64_t offset, size_t length) const;

  // Makes the pages of [offset, offset + length) present in this process, so that looking at
  // them waits for nothing. DataLoss as Read has it, where the kernel can tell (Linux 5.14).
  absl::Status Populate(uint64_t offset, size_t length) const;

  // Drops whole pages inside [offset, offset + length) from this process (not
  // from the page cache, where other ranks find them).
  void Release(uint64_t offset, size_t length) const;

 private:
  MappedFile() = default;
  void Close();
  int fd_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::string path_;
};

}  // namespace tandem::loader
