#include "runtime/quantize/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace tandem::quantize {
namespace {

uint64_t ElementBytes(std::string_view type) {
  if (type == "I64") return 8;
  if (type == "F32" || type == "I32") return 4;
  if (type == "F16" || type == "BF16") return 2;
  TANDEM_CHECK(type == "I8" || type == "U8");
  return 1;
}

// ABORTED is what ends with the exit code of failed output.
absl::Status WriteError(const std::string& path, int error) {
  return absl::AbortedError(
      absl::StrCat(path, ": writing failed: ", std::string(std::strerror(error))));
}

absl::Status WriteAll(int fd, const std::string& path, const char* data, size_t bytes,
                      uint64_t offset) {
  while (bytes > 0) {
    const ssize_t written = pwrite(fd, data, bytes, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return WriteError(path, written < 0 ? errno : ENOSPC);
    data += written;
    bytes -= static_cast<size_t>(written);
    offset += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

absl::Status SyncAndClose(int fd, const std::string& path) {
  const int failed = fsync(fd) != 0 ? errno : 0;
  if (close(fd) != 0 || failed != 0) return WriteError(path, failed != 0 ? failed : errno);
  return absl::OkStatus();
}

absl::StatusOr<int> CreateFile(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return WriteError(path, errno);
  return fd;
}

}  // namespace

uint64_t OutputTensor::bytes() const {
  uint64_t bytes = ElementBytes(type);
  for (const int64_t size : shape) bytes *= static_cast<uint64_t>(size);
  return bytes;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<OutputTensor>& tensors) {
  // As the reference implementation lays them out: wide elements first, so that
  // each tensor is aligned to its own.
  std::vector<const OutputTensor*> order;
  for (const OutputTensor& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const OutputTensor* a, const OutputTensor* b) {
    const uint64_t left = ElementBytes(a->type), right = ElementBytes(b->type);
    return left != right ? left > right : a->name < b->name;
  });
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const OutputTensor* tensor : order) {
    const uint64_t end = offset + tensor->bytes();
    header[tensor->name] = {
        {"dtype", tensor->type}, {"shape", tensor->shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string start(8, '\0');
  for (int i = 0; i < 8; ++i) {
    start[static_cast<size_t>(i)] = static_cast<char>(uint64_t{text.size()} >> (8 * i) & 0xff);
  }
  start += text;

  TANDEM_ASSIGN_OR_RETURN(const int fd, CreateFile(path));
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, fd));
  uint64_t place = start.size();
  for (const OutputTensor* tensor : order) {
    TANDEM_CHECK(writer->places_.emplace(tensor->name, Place{place, tensor->bytes()}).second);
    place += tensor->bytes();
  }
  // A full disk shows before the work, not after it.
  if (const int error = posix_fallocate(fd, 0, static_cast<off_t>(place)); error != 0) {
    return WriteError(path, error);
  }
  TANDEM_RETURN_IF_ERROR(WriteAll(fd, path, start.data(), start.size(), 0));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) close(fd_);
}

bool SafetensorsWriter::Has(std::string_view name) const {
  return places_.count(std::string(name)) != 0;
}

absl::Status SafetensorsWriter::Append(std::string_view name, const void* data, size_t bytes) {
  const auto place = places_.find(std::string(name));
  TANDEM_CHECK(place != places_.end() && bytes <= place->second.left);
  TANDEM_RETURN_IF_ERROR(
      WriteAll(fd_, path_, static_cast<const char*>(data), bytes, place->second.offset));
  place->second.offset += bytes;
  place->second.left -= bytes;
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Close() {
  for (const auto& [name, place] : places_) TANDEM_CHECK(place.left == 0);
  const int fd = std::exchange(fd_, -1);
  return SyncAndClose(fd, path_);
}

absl::Status WriteFileDurably(const std::string& path, std::string_view bytes) {
  TANDEM_ASSIGN_OR_RETURN(const int fd, CreateFile(path));
  absl::Status status = WriteAll(fd, path, bytes.data(), bytes.size(), 0);
  const absl::Status closed = SyncAndClose(fd, path);
  return status.ok() ? closed : status;
}

absl::Status SyncFolder(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return WriteError(path, errno);
  return SyncAndClose(fd, path);
}

}  // namespace tandem::quantize
