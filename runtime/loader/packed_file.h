// A file of weights as the kernels read them, so that the next start packs and quantizes nothing. A
// file holds whole matrices and so serves ranks of every TP degree: each copies its own rows and
// columns (WeightStore::CopyPackedRows).
//
// Layout: "TNDMPACK", the footer's offset and length (u64, little endian), the matrices, each on a
// page of its own, and the footer: JSON of the key and of each matrix's name, shape and place. The
// key says what the file was made from and how. A file with another key counts as absent.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/loader/mapped_file.h"

namespace tandem::loader {

class PackedFile {
 public:
  // NOT_FOUND where there is no such file; INVALID_ARGUMENT where it is damaged or has another
  // key.
  static absl::StatusOr<std::unique_ptr<PackedFile>> Open(const std::string& path,
                                                          std::string_view key);

  struct Entry {
    std::string description;
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  // The matrix of that name and description; null where there is none. Valid as long as this.
  const Entry* Find(const std::string& name, std::string_view description) const;

  // Bytes [offset, offset + bytes) of a matrix. DATA_LOSS if the disk fails or the file was
  // truncated. Many threads may read at once.
  absl::Status Read(const Entry& matrix, uint64_t offset, size_t bytes, std::byte* dst) const;

  // The whole file; a matrix begins on a page, at its offset.
  const MappedFile& mapping() const { return file_; }

  uint64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  explicit PackedFile(MappedFile file) : file_(std::move(file)) {}

  MappedFile file_;
  std::map<std::string, Entry> entries_;
  mutable std::atomic<uint64_t> bytes_read_{0};
};

// Writes a temporary file in the folder of `path` and renames it when it is complete: readers see
// all of it or nothing. A failed writer removes its temporary file; that of a killed writer is
// removed by the next writer that comes ten minutes later or more.
class PackedFileWriter {
 public:
  // Errors name the path: UNAVAILABLE for a full disk, PERMISSION_DENIED and others as the system
  // says.
  static absl::StatusOr<PackedFileWriter> Create(const std::string& path, std::string_view key);
  PackedFileWriter(PackedFileWriter&& other) noexcept;
  PackedFileWriter& operator=(PackedFileWriter&&) = delete;
  ~PackedFileWriter();

  absl::Status Append(const std::string& name, std::string_view description,
                      std::span<const std::byte> matrix);
  absl::Status Finish();

 private:
  PackedFileWriter(int fd, std::string path, std::string temporary, std::string key);
  absl::Status Write(std::span<const std::byte> bytes);
  absl::Status Failed(const std::string& what, int error) const;

  int fd_ = -1;
  std::string path_, temporary_, key_;
  std::string entries_;  // of the footer's list, as JSON
  uint64_t offset_ = 0;
};

}  // namespace tandem::loader
