// Writes one safetensors file. Its tensors are known beforehand; their bytes come in any order and
// a few at a time. Format: https://github.com/huggingface/safetensors#format
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::quantize {

// A tensor to be written. Row-major.
struct OutputTensor {
  std::string name;
  std::string type;  // as safetensors spells it: "BF16", "I32", "I64"
  std::vector<int64_t> shape;

  uint64_t bytes() const;
};

class SafetensorsWriter {
 public:
  // Creates the file, which must not exist, takes its whole room on the disk and
  // writes the header. ABORTED where that fails: the disk is full, say.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<OutputTensor>& tensors);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  bool Has(std::string_view name) const;

  // The next bytes of a tensor. From one thread.
  absl::Status Append(std::string_view name, const void* data, size_t bytes);

  // Syncs and closes. Every tensor must have been written in full.
  absl::Status Close();

 private:
  struct Place {
    uint64_t offset = 0;  // of the next byte, in the file
    uint64_t left = 0;
  };
  SafetensorsWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_ = -1;
  std::unordered_map<std::string, Place> places_;
};

// Writes a whole small file and syncs it. ABORTED where that fails.
absl::Status WriteFileDurably(const std::string& path, std::string_view bytes);

// Makes the names inside a folder survive a crash.
absl::Status SyncFolder(const std::string& path);

}  // namespace tandem::quantize
