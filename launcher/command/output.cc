#include "launcher/command/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "runtime/rank/exit_code.h"

namespace tandem::launcher {

absl::Status CheckStdout(const std::string& what) {
  if (fcntl(STDOUT_FILENO, F_GETFD) >= 0) return absl::OkStatus();
  return rank::OutputError(absl::StrCat("stdout: is closed, ", what, " nowhere to go"));
}

absl::Status WriteStdout(absl::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) {
    return absl::OkStatus();
  }
  return rank::OutputError("stdout: cannot be written");
}

absl::Status WriteFile(const std::string& option, const std::string& path, absl::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (file.write(text.data(), static_cast<std::streamsize>(text.size())) && file.flush()) {
    return absl::OkStatus();
  }
  return rank::OutputError(absl::StrCat(option, " ", path, ": cannot be written"));
}

}  // namespace tandem::launcher
