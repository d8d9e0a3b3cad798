// A file of a model or of packed weights, open for positioned reads. Nothing is mapped: if the disk
// fails, or somebody truncates the file, a read returns an error, and no process gets a SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::loader {

// Owns the descriptor. Movable; safe for concurrent reads. A file that is deleted or replaced by
// another of its name stays readable here.
class InputFile {
 public:
  // Refuses what is not a regular file (symlinks are followed), an empty file
  // and one that cannot be read.
  static absl::StatusOr<InputFile> Open(const std::string& path);

  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  ~InputFile();

  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Copies bytes [offset, offset + length) to dst. The range must be inside the
  // file (TANDEM_CHECK). DATA_LOSS when the disk or a shrunken file fails it.
  absl::Status Read(uint64_t offset, size_t length, void* dst) const;

  // Asks for pages of [offset, offset + length) to be read in the background,
  // and no other pages.
  void Prefetch(uint64_t offset, size_t length) const;

  // DATA_LOSS where somebody has written to the file or cut it since Open, as its size and its time
  // of modification tell.
  absl::Status CheckUnchanged() const;

 private:
  InputFile() = default;
  void Close();
  int fd_ = -1;
  size_t size_ = 0;
  int64_t modified_ns_ = 0;  // since 1970, when it was opened
  std::string path_;
};

}  // namespace tandem::loader
