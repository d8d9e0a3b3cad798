#include "runtime/loader/packed_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
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

constexpr char kMagic[8] = {'T', 'N', 'D', 'M', 'P', 'A', 'C', 'K'};
constexpr uint64_t kPage = 4096;
constexpr uint64_t kMaxFooter = 64 << 20;

// At the file's start; the footer's place is filled in last.
struct Head {
  char magic[8];
  uint64_t footer_offset;
  uint64_t footer_bytes;
};

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
  TANDEM_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  std::unique_ptr<PackedFile> file(new PackedFile(std::move(mapped)));
  const uint64_t size = file->file_.size();
  const auto damaged = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", what, "; remove it and it is made again"));
  };
  Head head;
  if (size < sizeof(head)) return damaged("no packed weights");
  TANDEM_RETURN_IF_ERROR(file->file_.Read(0, sizeof(head), &head));
  if (std::memcmp(head.magic, kMagic, sizeof(kMagic)) != 0) return damaged("no packed weights");
  if (head.footer_offset > size || head.footer_bytes > kMaxFooter ||
      head.footer_bytes != size - head.footer_offset) {
    return damaged("cut short");
  }
  std::string text(head.footer_bytes, '\0');
  TANDEM_RETURN_IF_ERROR(file->file_.Read(head.footer_offset, text.size(), text.data()));
  TANDEM_ASSIGN_OR_RETURN(const Json footer, json::Parse(text, path, 4));
  if (!footer.is_object()) return damaged("no footer");
  const json::Field fields(footer, path);
  TANDEM_ASSIGN_OR_RETURN(const auto found, fields.String("key"));
  if (found != key) return damaged("made of another model, by other options or another build");
  const Json* matrices = fields.Value("matrices");
  if (matrices == nullptr || !matrices->is_array()) return damaged("no footer");
  for (const Json& matrix : *matrices) {
    if (!matrix.is_object()) return damaged("no footer");
    const json::Field entry(matrix, path, "matrices");
    TANDEM_ASSIGN_OR_RETURN(const auto name, entry.String("name"));
    TANDEM_ASSIGN_OR_RETURN(const auto description, entry.String("description"));
    const int64_t end = static_cast<int64_t>(head.footer_offset);
    TANDEM_ASSIGN_OR_RETURN(const int64_t offset, entry.RequiredInt("offset", 0, end));
    TANDEM_ASSIGN_OR_RETURN(const int64_t bytes, entry.RequiredInt("bytes", 0, end - offset));
    if (!name || !description || offset % kPage != 0) return damaged("no footer");
    file->entries_[*name] = {*description, static_cast<uint64_t>(offset),
                             static_cast<uint64_t>(bytes)};
  }
  return file;
}

const PackedFile::Entry* PackedFile::Find(const std::string& name,
                                          std::string_view description) const {
  const auto entry = entries_.find(name);
  return entry != entries_.end() && entry->second.description == description ? &entry->second
                                                                             : nullptr;
}

absl::Status PackedFile::Read(const Entry& matrix, uint64_t offset, size_t bytes,
                              std::byte* dst) const {
  TANDEM_CHECK(offset <= matrix.bytes && bytes <= matrix.bytes - offset);
  // Asks for the next bytes before it copies these: the file is open in random mode.
  constexpr uint64_t kReadBytes = 4 << 20;
  const uint64_t begin = matrix.offset + offset;
  bytes_read_.fetch_add(bytes, std::memory_order_relaxed);
  file_.Prefetch(begin, std::min<uint64_t>(kReadBytes, bytes));
  for (uint64_t at = 0; at < bytes; at += kReadBytes) {
    if (at + kReadBytes < bytes) {
      file_.Prefetch(begin + at + kReadBytes, std::min(kReadBytes, bytes - at - kReadBytes));
    }
    TANDEM_RETURN_IF_ERROR(file_.Read(begin + at, std::min(kReadBytes, bytes - at), dst + at));
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
    fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  } while (fd < 0 && errno == EEXIST);
  const int error = errno;
  PackedFileWriter writer(fd, path, temporary, std::string(key));
  if (fd < 0) return writer.Failed("cannot create", error);
  // Held until the file is closed. Where there are no locks nothing is removed as abandoned.
  flock(fd, LOCK_EX | LOCK_NB);
  RemoveAbandoned(path, fd);  // first: they may be what fills the disk
  const Head head = {};
  TANDEM_RETURN_IF_ERROR(writer.Write(std::as_bytes(std::span(&head, 1))));
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

absl::Status PackedFileWriter::Append(const std::string& name, std::string_view description,
                                      std::span<const std::byte> matrix) {
  static constexpr std::byte kZeros[kPage] = {};
  TANDEM_RETURN_IF_ERROR(Write(std::span(kZeros).first((kPage - offset_ % kPage) % kPage)));
  const Json entry = {
      {"name", name}, {"description", description}, {"offset", offset_}, {"bytes", matrix.size()}};
  absl::StrAppend(&entries_, entries_.empty() ? "" : ",", entry.dump());
  return Write(matrix);
}

absl::Status PackedFileWriter::Finish() {
  const std::string footer =
      absl::StrCat("{\"key\":", Json(key_).dump(), ",\"matrices\":[", entries_, "]}");
  Head head = {.footer_offset = offset_, .footer_bytes = footer.size()};
  std::memcpy(head.magic, kMagic, sizeof(kMagic));
  TANDEM_RETURN_IF_ERROR(Write(std::as_bytes(std::span(footer.data(), footer.size()))));
  if (pwrite(fd_, &head, sizeof(head), 0) != static_cast<ssize_t>(sizeof(head)) ||
      fsync(fd_) != 0) {
    return Failed("cannot write", errno);
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return Failed("cannot rename", errno);
  close(std::exchange(fd_, -1));
  return absl::OkStatus();
}

}  // namespace tandem::loader
