#include "launcher/command/quantize_output.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/quantize/safetensors_writer.h"
#include "runtime/rank/exit_code.h"

namespace tandem::launcher {

namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSideFileBytes = 64 << 20;

bool IsWeights(const std::string& name) {
  static constexpr absl::string_view kWeights[] = {".safetensors", ".safetensors.index.json",
                                                   ".bin",         ".bin.index.json",
                                                   ".pt",          ".pth",
                                                   ".gguf",        ".onnx",
                                                   ".h5",          ".msgpack"};
  return std::any_of(std::begin(kWeights), std::end(kWeights),
                     [&](absl::string_view end) { return absl::EndsWith(name, end); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFolder>> OutputFolder::Create(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const std::string partial = path + ".partial";
  for (const std::string& taken : {path, partial}) {
    struct stat info;
    if (lstat(taken.c_str(), &info) != 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        taken, ": found something there, expected nothing; remove it or name another OUT"));
  }
  if (mkdir(partial.c_str(), 0777) != 0) {
    return rank::OutputError(absl::StrCat(partial, ": cannot be made: ", std::strerror(errno)));
  }
  return std::unique_ptr<OutputFolder>(new OutputFolder(path, partial));
}
OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!finished_) fs::remove_all(partial_, ignored);
}

absl::Status OutputFolder::Finish() {
  TANDEM_RETURN_IF_ERROR(quantize::SyncFolder(partial_));
  if (rename(partial_.c_str(), path_.c_str()) != 0) {
    return rank::OutputError(absl::StrCat(path_, ": cannot be made: ", std::strerror(errno)));
  }
  finished_ = true;
  const fs::path parent = fs::path(path_).parent_path();
  return quantize::SyncFolder(parent.empty() ? "." : parent.string());
}

absl::Status CopySideFiles(const loader::ModelFolder& folder, const std::string& to) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder.path(), error)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (IsWeights(name) || name == "config.json" || !loader::IsPlainFileName(name) ||
        !entry.is_regular_file(ignored)) {
      continue;
    }
    if (const auto size = entry.file_size(ignored); !ignored && size > kMaxSideFileBytes) {
      std::fprintf(stderr, "tandem: %s: found %ju bytes, expected at most %zu; it is not copied\n",
                   entry.path().c_str(), size, kMaxSideFileBytes);
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(const std::string bytes, folder.ReadSmallFile(name, kMaxSideFileBytes));
    TANDEM_RETURN_IF_ERROR(quantize::WriteFileDurably(to + "/" + name, bytes));
  }
  if (error) return absl::DataLossError(absl::StrCat(folder.path(), ": ", error.message()));
  return absl::OkStatus();
}

}  // namespace tandem::launcher
