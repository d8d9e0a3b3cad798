// Files that the tokenizer tests read.
#pragma once

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

}  // namespace tandem::tokenizer
