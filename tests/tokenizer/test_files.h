// Files that the tokenizer tests read.
#pragma once

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace tandem::tokenizer {

// Empty where the file is missing.
inline std::string ReadTestFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The folder of large reference files that is no part of the repository.
inline std::string SharedFolder() {
  const char* folder = std::getenv("TANDEM_SHARED");
  return folder != nullptr ? folder : TANDEM_SOURCE_DIR "/../shared";
}

}  // namespace tandem::tokenizer
