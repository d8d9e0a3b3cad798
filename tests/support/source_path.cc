#include "tests/support/source_path.h"

#include <cstdlib>
#include <filesystem>

namespace tandem {

std::string SourcePath(const std::string& path) {
  return std::string(TANDEM_SOURCE_DIR) + "/" + path;
}

std::string SharedPath(const std::string& path) {
  const char* folder = std::getenv("TANDEM_SHARED");
  const std::string full = (folder != nullptr ? folder : SourcePath("../shared")) + "/" + path;
  return std::filesystem::exists(full) ? full : "";
}

}  // namespace tandem
