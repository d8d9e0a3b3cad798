// The weights of a model folder: model.safetensors, or several files of at most
// 5 GB with their index, as Transformers saves them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/quantize/safetensors_writer.h"

namespace tandem::quantize {

class CheckpointWriter {
 public:
  static constexpr uint64_t kMaxFileBytes = 5'000'000'000;

  // Creates the files in an existing folder, with their whole room on the disk.
  // A tensor larger than max_file_bytes gets a file of its own. ABORTED where
  // writing fails.
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(
      const std::string& folder, const std::vector<OutputTensor>& tensors,
      uint64_t max_file_bytes = kMaxFileBytes);

  // The next bytes of a tensor. From one thread.
  absl::Status Append(std::string_view name, const void* data, size_t bytes);

  // Syncs the files. Every tensor must have been written in full.
  absl::Status Close();

 private:
  std::vector<std::unique_ptr<SafetensorsWriter>> files_;
};

}  // namespace tandem::quantize
