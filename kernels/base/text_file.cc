#include "kernels/base/text_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace tandem::launcher {

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

}  // namespace tandem::launcher
