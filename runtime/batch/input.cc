#include "runtime/batch/input.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace tandem::batch {
namespace {

constexpr size_t kMaxLineBytes = size_t{64} << 20;

struct CloseGzip {
  void operator()(gzFile file) const { gzclose(file); }
};

}  // namespace

absl::StatusOr<std::vector<InputLine>> ReadLines(const std::string& path) {
  const bool standard = path == "-";
  const int fd = standard ? dup(STDIN_FILENO) : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const std::string name = standard ? "standard input" : path;
  if (fd < 0) {
    return absl::NotFoundError(
        absl::StrCat("--input ", name, ": cannot be opened: ", std::strerror(errno)));
  }
  // Plain files pass through zlib as they are.
  const std::unique_ptr<gzFile_s, CloseGzip> file(gzdopen(fd, "rb"));
  if (file == nullptr) {
    close(fd);
    return absl::ResourceExhaustedError(absl::StrCat("--input ", name, ": no memory to read it"));
  }
  gzbuffer(file.get(), 1 << 17);
  std::vector<InputLine> lines;
  std::string partial;
  int64_t number = 1;
  const auto take = [&] {
    if (!partial.empty() && partial.back() == '\r') partial.pop_back();
    if (partial.find_first_not_of(" \t") != std::string::npos) lines.push_back({number, partial});
    partial.clear();
    ++number;
  };
  std::vector<char> buffer(1 << 17);
  while (true) {
    const int count = gzread(file.get(), buffer.data(), static_cast<unsigned>(buffer.size()));
    int code = Z_OK;
    const char* what = gzerror(file.get(), &code);
    if (count < 0 || (code != Z_OK && code != Z_STREAM_END)) {
      return absl::DataLossError(absl::StrCat("--input ", name, ": line ", number, ": ",
                                              code == Z_ERRNO ? std::strerror(errno) : what));
    }
    if (count == 0) break;
    const char* at = buffer.data();
    const char* end = at + count;
    while (at < end) {
      const void* newline = std::memchr(at, '\n', static_cast<size_t>(end - at));
      const char* stop = newline == nullptr ? end : static_cast<const char*>(newline);
      if (partial.size() + static_cast<size_t>(stop - at) > kMaxLineBytes) {
        return absl::InvalidArgumentError(absl::StrCat("--input ", name, ": line ", number,
                                                       ": found more than ", kMaxLineBytes,
                                                       " bytes, expected one row a line"));
      }
      partial.append(at, stop);
      if (newline == nullptr) break;
      take();
      at = stop + 1;
    }
  }
  if (!partial.empty()) take();
  return lines;
}

}  // namespace tandem::batch
