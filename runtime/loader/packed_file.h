// A file of weights as the kernels read them, so that the next start packs and quantizes nothing. A
// file holds whole matrices and so serves ranks of every TP degree: each copies its own rows and
// columns (WeightStore::CopyPackedRows).
//
// Layout, in pages of 4096 bytes: the header ("TNDMPAK2", places and lengths of table and footer,
// and digests), the entries, each from a page on, the rest of its last page zero; the table, one
// digest for each page of the entries; and the footer, JSON of the key and of each entry's name,
// description and place. The key says what the file was made from and how. A file with another key
// counts as absent.
//
// All digests are XXH3 of 64 bits, and together they cover every byte: the header's last 8 bytes
// are the digest of the header before them, which has the digest of table and footer. Opening
// checks header, table, footer and the file's size. Each read checks the pages that it touches, so
// no byte that changed on the disk, or since the file was made, is ever computed with.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/loader/input_file.h"

namespace tandem::loader {

// The unit of digests: each covers so many bytes.
inline constexpr uint64_t kPackedPage = 4096;

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
  // The entry of that name and description; null where there is none. Valid as long as this.
  const Entry* Find(const std::string& name, std::string_view description) const;

  // Bytes [offset, offset + bytes) of an entry. DATA_LOSS if the disk fails, or the file was
  // changed or cut since it was made: names the file and the entry. Many threads may read at once.
  absl::Status Read(const Entry& entry, uint64_t offset, size_t bytes, std::byte* dst) const;
  // The same of pages [begin, end) of the file, in bytes; dst has room for them all.
  absl::Status ReadPages(uint64_t begin, uint64_t end, std::byte* dst) const;
  // Reads those pages and keeps none: finds out now what ReadPages would find.
  absl::Status CheckPages(uint64_t begin, uint64_t end) const;
  void Prefetch(uint64_t begin, uint64_t bytes) const { file_.Prefetch(begin, bytes); }

  // Address space for all pages of the file, without memory: pages that are written there take
  // some. For weights that are read in place (WeightStream). RESOURCE_EXHAUSTED where the system
  // refuses.
  absl::Status ReserveImage();
  std::byte* image() const { return image_; }  // null before ReserveImage

  const std::string& path() const { return file_.path(); }
  // Whether a read has found a damage.
  bool damaged() const { return damaged_.load(std::memory_order_relaxed); }
  // Memory that the digests of so many bytes of entries, each padded to pages, take.
  static uint64_t TableBytes(uint64_t entry_bytes) { return entry_bytes / kPackedPage * 8; }
  uint64_t table_bytes() const { return digests_.size() * sizeof(uint64_t); }

  // Of entries; pages that are read for their digest alone do not count.
  uint64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

  ~PackedFile();

 private:
  explicit PackedFile(InputFile file) : file_(std::move(file)) {}
  absl::Status ReadFooter(std::string_view key);
  absl::Status ParseFooter(std::string_view text, std::string_view key, uint64_t end);
  absl::Status Damaged(const std::string& what) const;
  absl::Status CheckPage(uint64_t page, const std::byte* bytes) const;
  std::string EntryAt(uint64_t offset) const;

  InputFile file_;
  std::map<std::string, Entry> entries_;
  std::vector<uint64_t> digests_;  // of page 1, page 2, ...
  std::byte* image_ = nullptr;
  mutable std::atomic<uint64_t> bytes_read_{0};
  mutable std::atomic<bool> damaged_{false};
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
                      std::span<const std::byte> entry);
  // The same of `bytes` bytes, which read(offset, piece) writes to `piece`, one after the other.
  using PieceReader = absl::FunctionRef<absl::Status(uint64_t offset, std::span<std::byte> piece)>;
  absl::Status Append(const std::string& name, std::string_view description, uint64_t bytes,
                      PieceReader read);
  absl::Status Finish();

 private:
  PackedFileWriter(int fd, std::string path, std::string temporary, std::string key);
  void AddEntry(const std::string& name, std::string_view description, uint64_t bytes);
  absl::Status Write(std::span<const std::byte> bytes);
  // Whole pages, or the last ones of an entry.
  absl::Status WritePages(std::span<const std::byte> bytes);
  absl::Status Failed(const std::string& what, int error) const;

  int fd_ = -1;
  std::string path_, temporary_, key_;
  std::string entries_;  // of the footer's list, as JSON
  std::vector<uint64_t> digests_;
  uint64_t offset_ = 0;
};

}  // namespace tandem::loader
