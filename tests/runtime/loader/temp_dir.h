// A folder for one test, gone afterwards, and writers of small model files.
#pragma once

#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/check.h"

namespace tandem::loader {

class TempDir {
 public:
  TempDir() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "tandem_loader_XXXXXX").string();
    TANDEM_CHECK(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

  // Folders on the way are made. Returns the path.
  std::string Write(std::string_view name, std::string_view bytes) const {
    const std::string path = *this / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path;
  }

 private:
  std::string path_;
};

// `length` as the format's 8 bytes, `header` and `data`.
inline std::string RawSafetensors(uint64_t length, std::string_view header, std::string_view data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(length >> (8 * i)));
  return file.append(header).append(data);
}

inline std::string Safetensors(std::string_view header, std::string_view data) {
  return RawSafetensors(header.size(), header, data);
}

// An F32 matrix for SafetensorsOf: element (r, c) is first + r * columns + c.
struct Matrix {
  std::string name;
  int64_t rows;
  int64_t columns;
  float first;
  float At(int64_t r, int64_t c) const { return first + static_cast<float>(r * columns + c); }
};

inline std::string SafetensorsOf(const std::vector<Matrix>& matrices) {
  std::string header = "{", data;
  for (const Matrix& m : matrices) {
    const size_t begin = data.size();
    for (int64_t r = 0; r < m.rows; ++r) {
      for (int64_t c = 0; c < m.columns; ++c) {
        const float value = m.At(r, c);
        data.append(reinterpret_cast<const char*>(&value), sizeof value);
      }
    }
    header += (header.size() == 1 ? "\"" : ",\"") + m.name + "\":{\"dtype\":\"F32\",\"shape\":[" +
              std::to_string(m.rows) + "," + std::to_string(m.columns) + "],\"data_offsets\":[" +
              std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  return Safetensors(header + "}", data);
}

}  // namespace tandem::loader
