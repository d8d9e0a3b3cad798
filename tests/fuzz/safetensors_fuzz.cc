// A safetensors file; with a first byte of '#' the index of a folder that has none of its files.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_folder.h"
#include "runtime/loader/safetensors.h"

namespace {

// A folder of this process for the files that the loader is to read; gone at the end.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tandem_fuzz_XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void Write(const std::filesystem::path& path, const uint8_t* data, size_t size) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  const bool index = size > 0 && data[0] == '#';
  const auto file = folder.path() / (index ? "model.safetensors.index.json" : "model.safetensors");
  Write(file, data + (index ? 1 : 0), size - (index ? 1 : 0));
  Write(folder.path() / "config.json", reinterpret_cast<const uint8_t*>("{}"), 2);
  const auto model = tandem::loader::ModelFolder::Open(folder.path().string());
  if (model.ok()) {
    const auto checkpoint = tandem::loader::Checkpoint::Open(*model);
    if (checkpoint.ok()) {
      for (const auto& info : (*checkpoint)->ListTensors()) {
        const auto tensor = (*checkpoint)->Take(info.name, info.shape);
        if (!tensor.ok()) continue;
        std::string bytes(static_cast<size_t>(tensor->rows() * tensor->row_bytes()), '\0');
        (void)tensor->CopyAll(bytes.data());
      }
    }
  }
  std::filesystem::remove(file);
  return 0;
}
