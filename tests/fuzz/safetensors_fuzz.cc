// A safetensors file; with a first byte of '#' the index of a folder that has none of its files.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_folder.h"
#include "runtime/loader/safetensors.h"
#include "tests/runtime/loader/temp_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tandem::loader::TempDir folder;
  std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const bool index = bytes.starts_with('#');
  if (index) bytes.remove_prefix(1);
  const std::string file =
      folder.Write(index ? "model.safetensors.index.json" : "model.safetensors", bytes);
  folder.Write("config.json", "{}");
  const auto model = tandem::loader::ModelFolder::Open(folder.path());
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
