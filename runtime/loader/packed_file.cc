#include "runtime/loader/packed_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/json.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

using Json = nlohmann::json;

constexpr char kMagic[8] = {'T', 'N', 'D', 'M', 'P', 'A', 'K', '2'};
constexpr uint64_t kPage = kPackedPage;
constexpr uint64_t kMaxFooter = 64 << 20;
constexpr uint64_t kPieceBytes = 4 << 20;
// Digests are taken of what a read has just brought into the processor's cache.
constexpr uint64_t kReadBytes = 256 << 10;

// The file's first page. It is written last.
struct Header {
  char magic[8];
  uint64_t table_offset;  // the end of the entries
  uint64_t footer_offset;
  uint64_t footer_bytes;  // to the end of the file
  uint64_t end_digest;    // of table and footer
  char zeros[kPage - 48];
  uint64_t digest;  // of the header before
};
static_assert(sizeof(Header) == kPage);

uint64_t Digest(const void* bytes, size_t size) { return XXH3_64bits(bytes, size); }
uint64_t HeaderDigest(const Header& header) { return Digest(&header, offsetof(Header, digest)); }

uint64_t PagesDown(uint64_t offset) { return offset / kPage * kPage; }
uint64_t PagesUp(uint64_t offset) { return PagesDown(offset + kPage - 1); }

constexpr char kPartial[] = ".partial";
constexpr time_t kAbandonedSeconds = 600;

// A name that no other writer has, in another container or on another host neither.
std::string TemporaryName(const std::string& path) {
  std::random_device random;
  const uint64_t bits = uint64_t{random()} << 32 | random();
  return absl::StrCat(path, ".", absl::Hex(bits, absl::kZeroPad16), kPartial);
}

// Removes what killed writers of `path` left. A file is theirs where nobody holds its lock and
// nobody has written for ten minutes by the file system's clock, of which `own`, a file that was
// just made there, tells the time: on some network file systems other hosts' locks are not seen.
void RemoveAbandoned(const std::string& path, int own) {
  struct stat now;
  if (fstat(own, &now) != 0) return;
  const std::filesystem::path target(path);
  const std::string start = target.filename().string() + ".";
  const std::filesystem::path folder = target.parent_path();
  std::error_code error;
  std::filesystem::directory_iterator entries(folder.empty() ? "." : folder, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    if (!absl::StartsWith(name, start) || !absl::EndsWith(name, kPartial)) continue;
    // Over NFS only a file that is open for writing can be locked.
    const int fd = open(entries->path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    struct stat info;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
        info.st_mtime + kAbandonedSeconds < now.st_mtime && flock(fd, LOCK_EX | LOCK_NB) == 0) {
      unlink(entries->path().c_str());
    }
    close(fd);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedFile>> PackedFile::Open(const std::string& path,
                                                             std::string_view key) {
  TANDEM_ASSIGN_OR_RETURN(InputFile input, InputFile::Open(path));
  std::unique_ptr<PackedFile> file(new PackedFile(std::move(input)));
  TANDEM_RETURN_IF_ERROR(file->ReadFooter(key));
  return file;
}

PackedFile::~PackedFile() {
  if (image_ != nullptr) munmap(image_, file_.size());
}

absl::Status PackedFile::Damaged(const std::string& what) const {
  return absl::InvalidArgumentError(absl::StrCat(path(), ": ", what, ""));
}

absl::Status PackedFile::ReadFooter(std::string_view key) {
  const uint64_t size = file_.size();
  Header header;
  if (size < sizeof(header)) return Damaged("no packed weights of this version");
  TANDEM_RETURN_IF_ERROR(file_.Read(0, sizeof(header), &header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return Damaged("no packed weights of this version");
  }
  if (HeaderDigest(header) != header.digest) return Damaged("its header is damaged");
  const uint64_t table_bytes = (header.table_offset - kPage) / kPage * sizeof(uint64_t);
  if (header.table_offset < kPage || header.table_offset > size ||
      header.table_offset % kPage != 0 || header.footer_offset > size ||
      header.footer_offset - header.table_offset != table_bytes ||
      header.footer_bytes > kMaxFooter || header.footer_bytes != size - header.footer_offset) {
    return Damaged(absl::StrCat("found ", size, " bytes, expected ",
                                header.footer_offset + header.footer_bytes));
  }
  std::vector<std::byte> end(size - header.table_offset);
  TANDEM_RETURN_IF_ERROR(file_.Read(header.table_offset, end.size(), end.data()));
  if (Digest(end.data(), end.size()) != header.end_digest) {
    return Damaged("its list of matrices is damaged");
  }
  digests_.resize(table_bytes / sizeof(uint64_t));
  std::memcpy(digests_.data(), end.data(), table_bytes);
  return ParseFooter({reinterpret_cast<const char*>(end.data()) + table_bytes, header.footer_bytes},
                     key, header.table_offset);
}

absl::Status PackedFile::ParseFooter(std::string_view text, std::string_view key, uint64_t end) {
  TANDEM_ASSIGN_OR_RETURN(const Json footer, json::Parse(text, path(), 4));
  if (!footer.is_object()) return Damaged("no footer");
  const json::Field fields(footer, path());
  TANDEM_ASSIGN_OR_RETURN(const auto found, fields.String("key"));
  if (found != key) return Damaged("made of another model, by other options or another build");
  const Json* matrices = fields.Value("matrices");
  if (matrices == nullptr || !matrices->is_array()) return Damaged("no footer");
  for (const Json& matrix : *matrices) {
    if (!matrix.is_object()) return Damaged("no footer");
    const json::Field entry(matrix, path(), "matrices");
    TANDEM_ASSIGN_OR_RETURN(const auto name, entry.String("name"));
    TANDEM_ASSIGN_OR_RETURN(const auto description, entry.String("description"));
    const int64_t last = static_cast<int64_t>(end);
    TANDEM_ASSIGN_OR_RETURN(const int64_t offset, entry.RequiredInt("offset", kPage, last));
    TANDEM_ASSIGN_OR_RETURN(const int64_t bytes, entry.RequiredInt("bytes", 0, last - offset));
    if (!name || !description || offset % kPage != 0) return Damaged("no footer");
    entries_[*name] = {*description, static_cast<uint64_t>(offset), static_cast<uint64_t>(bytes)};
  }
  return absl::OkStatus();
}

const PackedFile::Entry* PackedFile::Find(const std::string& name,
                                          std::string_view description) const {
  const auto entry = entries_.find(name);
  return entry != entries_.end() && entry->second.description == description ? &entry->second
                                                                             : nullptr;
}

absl::Status PackedFile::ReserveImage() {
  void* image = mmap(nullptr, file_.size(), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (image == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path(), ": cannot reserve ", file_.size(),
                     " bytes of address space: ", std::strerror(errno)));
  }
  // A huge page would take memory for its neighbours, too, which may be other ranks'.
  madvise(image, file_.size(), MADV_NOHUGEPAGE);
  image_ = static_cast<std::byte*>(image);
  return absl::OkStatus();
}

std::string PackedFile::EntryAt(uint64_t offset) const {
  for (const auto& [name, entry] : entries_) {
    if (entry.offset <= offset && offset < PagesUp(entry.offset + entry.bytes)) return name;
  }
  return "no entry";
}

absl::Status PackedFile::CheckPage(uint64_t page, const std::byte* bytes) const {
  if (Digest(bytes, kPage) == digests_[page / kPage - 1]) return absl::OkStatus();
  damaged_ = true;
  return absl::DataLossError(
      absl::StrCat(path(), ": ", EntryAt(page), ": the bytes from ", page,
                   " on are not those that were written; the file was changed, or its disk fails"));
}

absl::Status PackedFile::ReadPages(uint64_t begin, uint64_t end, std::byte* dst) const {
  TANDEM_CHECK(begin % kPage == 0 && end % kPage == 0 && kPage <= begin && begin <= end &&
               end <= (digests_.size() + 1) * kPage);
  for (uint64_t at = begin; at < end; at += kReadBytes) {
    const uint64_t bytes = std::min(kReadBytes, end - at);
    std::byte* const to = dst + (at - begin);
    if (absl::Status read = file_.Read(at, bytes, to); !read.ok()) {
      damaged_ = true;
      return absl::Status(read.code(),
                          absl::StrCat(std::string(read.message()), ", in ", EntryAt(at)));
    }
    for (uint64_t page = 0; page < bytes; page += kPage) {
      TANDEM_RETURN_IF_ERROR(CheckPage(at + page, to + page));
    }
  }
  return absl::OkStatus();
}

absl::Status PackedFile::CheckPages(uint64_t begin, uint64_t end) const {
  std::vector<std::byte> piece(std::min(kReadBytes, end - begin));
  bytes_read_.fetch_add(end - begin, std::memory_order_relaxed);
  for (uint64_t at = begin; at < end; at += kReadBytes) {
    if ((at - begin) % kPieceBytes == 0) Prefetch(at, std::min(2 * kPieceBytes, end - at));
    TANDEM_RETURN_IF_ERROR(ReadPages(at, std::min(at + kReadBytes, end), piece.data()));
  }
  return absl::OkStatus();
}

absl::Status PackedFile::Read(const Entry& entry, uint64_t offset, size_t bytes,
                              std::byte* dst) const {
  TANDEM_CHECK(offset <= entry.bytes && bytes <= entry.bytes - offset);
  if (bytes == 0) return absl::OkStatus();
  const uint64_t begin = entry.offset + offset, end = begin + bytes;
  bytes_read_.fetch_add(bytes, std::memory_order_relaxed);
  // Asks for the next bytes before it copies these: the file is open in random mode.
  const uint64_t last = PagesUp(end);
  Prefetch(PagesDown(begin), std::min(kPieceBytes, last - PagesDown(begin)));
  // Pages of which only a part is wanted go through `part`, for their digest.
  std::byte part[kPage];
  for (uint64_t at = begin; at < end;) {
    const uint64_t page = PagesDown(at);
    if (at != page || end - page < kPage) {
      TANDEM_RETURN_IF_ERROR(ReadPages(page, page + kPage, part));
      const uint64_t count = std::min(page + kPage, end) - at;
      std::memcpy(dst, part + (at - page), count);
      dst += count;
      at += count;
      continue;
    }
    const uint64_t count = std::min(kPieceBytes, PagesDown(end) - at);
    if (at + count < last) Prefetch(at + count, std::min(kPieceBytes, last - at - count));
    TANDEM_RETURN_IF_ERROR(ReadPages(at, at + count, dst));
    dst += count;
    at += count;
  }
  return absl::OkStatus();
}

PackedFileWriter::PackedFileWriter(int fd, std::string path, std::string temporary, std::string key)
    : fd_(fd), path_(std::move(path)), temporary_(std::move(temporary)), key_(std::move(key)) {}

PackedFileWriter::PackedFileWriter(PackedFileWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      key_(std::move(other.key_)),
      entries_(std::move(other.entries_)),
      digests_(std::move(other.digests_)),
      offset_(other.offset_) {}

PackedFileWriter::~PackedFileWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

absl::StatusOr<PackedFileWriter> PackedFileWriter::Create(const std::string& path,
                                                          std::string_view key) {
  std::string temporary;
  int fd = -1;
  do {
    temporary = TemporaryName(path);
    fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd < 0 && errno == EEXIST);
  const int error = errno;
  PackedFileWriter writer(fd, path, temporary, std::string(key));
  if (fd < 0) return writer.Failed("cannot create", error);
  // Held until the file is closed. Where there are no locks nothing is removed as abandoned.
  flock(fd, LOCK_EX | LOCK_NB);
  RemoveAbandoned(path, fd);  // first: they may be what fills the disk
  const Header header = {};
  TANDEM_RETURN_IF_ERROR(writer.Write(std::as_bytes(std::span(&header, 1))));
  return writer;
}

absl::Status PackedFileWriter::Failed(const std::string& what, int error) const {
  const std::string message = absl::StrCat(temporary_, ": ", what, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) return absl::UnavailableError(message);
  return absl::PermissionDeniedError(message);
}

absl::Status PackedFileWriter::Write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = write(fd_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return Failed("cannot write", errno);
    bytes = bytes.subspan(static_cast<size_t>(put));
    offset_ += static_cast<uint64_t>(put);
  }
  return absl::OkStatus();
}

void PackedFileWriter::AddEntry(const std::string& name, std::string_view description,
                                uint64_t bytes) {
  const Json entry = {
      {"name", name}, {"description", description}, {"offset", offset_}, {"bytes", bytes}};
  absl::StrAppend(&entries_, entries_.empty() ? "" : ",", entry.dump());
}

absl::Status PackedFileWriter::WritePages(std::span<const std::byte> bytes) {
  const size_t whole = PagesDown(bytes.size());
  for (size_t page = 0; page < whole; page += kPage) {
    digests_.push_back(Digest(bytes.data() + page, kPage));
  }
  TANDEM_RETURN_IF_ERROR(Write(bytes.first(whole)));
  if (whole == bytes.size()) return absl::OkStatus();
  std::byte last[kPage] = {};
  std::memcpy(last, bytes.data() + whole, bytes.size() - whole);
  digests_.push_back(Digest(last, kPage));
  return Write(last);
}

absl::Status PackedFileWriter::Append(const std::string& name, std::string_view description,
                                      std::span<const std::byte> entry) {
  AddEntry(name, description, entry.size());
  return WritePages(entry);
}

absl::Status PackedFileWriter::Append(const std::string& name, std::string_view description,
                                      uint64_t bytes, PieceReader read) {
  AddEntry(name, description, bytes);
  std::vector<std::byte> piece(std::min(kPieceBytes, bytes));
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) {
    const std::span<std::byte> next = std::span(piece).first(std::min(kPieceBytes, bytes - at));
    TANDEM_RETURN_IF_ERROR(read(at, next));
    TANDEM_RETURN_IF_ERROR(WritePages(next));
  }
  return absl::OkStatus();
}

absl::Status PackedFileWriter::Finish() {
  const std::span<const std::byte> table = std::as_bytes(std::span(digests_));
  std::string end(reinterpret_cast<const char*>(table.data()), table.size());
  absl::StrAppend(&end, "{\"key\":", Json(key_).dump(), ",\"matrices\":[", entries_, "]}");
  Header header = {.table_offset = offset_,
                   .footer_offset = offset_ + table.size(),
                   .footer_bytes = end.size() - table.size(),
                   .end_digest = Digest(end.data(), end.size())};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.digest = HeaderDigest(header);
  TANDEM_RETURN_IF_ERROR(Write(std::as_bytes(std::span(end))));
  if (pwrite(fd_, &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header)) ||
      fsync(fd_) != 0) {
    return Failed("cannot write", errno);
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Failed("cannot rename", errno);
  close(std::exchange(fd_, -1));
  return absl::OkStatus();
}

}  // namespace tandem::loader
