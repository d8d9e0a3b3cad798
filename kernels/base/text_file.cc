#include "kernels/base/text_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <istream>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem {

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": found a folder, expected a text file"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot open: ", std::strerror(errno)));
  }
  std::string text;
  std::string piece(1 << 20, '\0');
  while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())) || file.gcount() > 0) {
    text.append(piece, 0, static_cast<size_t>(file.gcount()));
    if (text.size() > max_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": size: found more than ", max_bytes,
                                                     " bytes, expected at most that"));
    }
  }
  if (file.bad()) return absl::DataLossError(absl::StrCat(path, ": reading failed"));
  if (text.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": found no text, expected some"));
  }
  return text;
}

absl::StatusOr<std::string> ReadStream(std::istream& in, const std::string& name,
                                       size_t max_bytes) {
  std::string text(max_bytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (in.bad()) return absl::DataLossError(absl::StrCat(name, ": cannot be read"));
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": found more than ", max_bytes >> 20, " MiB, expected less"));
  }
  return text;
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file.is_open() || std::filesystem::is_directory(path, error)) {
    return absl::DataLossError(absl::StrCat(path, ": cannot be read"));
  }
  return ReadStream(file, path, max_bytes);
}

}  // namespace tandem
