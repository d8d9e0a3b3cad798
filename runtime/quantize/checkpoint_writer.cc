#include "runtime/quantize/checkpoint_writer.h"

#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace tandem::quantize {

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CheckpointWriter::Create(
    const std::string& folder, const std::vector<OutputTensor>& tensors, uint64_t max_file_bytes) {
  std::vector<std::vector<OutputTensor>> files(1);
  uint64_t total = 0, file_bytes = 0;
  for (const OutputTensor& tensor : tensors) {
    if (file_bytes + tensor.bytes() > max_file_bytes && !files.back().empty()) {
      files.emplace_back();
      file_bytes = 0;
    }
    files.back().push_back(tensor);
    file_bytes += tensor.bytes();
    total += tensor.bytes();
  }
  auto writer = std::make_unique<CheckpointWriter>();
  nlohmann::json weight_map = nlohmann::json::object();
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name =
        files.size() == 1 ? "model.safetensors"
                          : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, files.size());
    TANDEM_ASSIGN_OR_RETURN(auto file, SafetensorsWriter::Create(folder + "/" + name, files[i]));
    writer->files_.push_back(std::move(file));
    for (const OutputTensor& tensor : files[i]) weight_map[tensor.name] = name;
  }
  if (files.size() > 1) {
    const nlohmann::json index = {{"metadata", {{"total_size", total}}},
                                  {"weight_map", weight_map}};
    TANDEM_RETURN_IF_ERROR(
        WriteFileDurably(folder + "/model.safetensors.index.json", index.dump(2) + "\n"));
  }
  return writer;
}

absl::Status CheckpointWriter::Append(std::string_view name, const void* data, size_t bytes) {
  for (const auto& file : files_) {
    if (file->Has(name)) return file->Append(name, data, bytes);
  }
  TANDEM_CHECK(false);
}

absl::Status CheckpointWriter::Close() {
  for (const auto& file : files_) TANDEM_RETURN_IF_ERROR(file->Close());
  return absl::OkStatus();
}

}  // namespace tandem::quantize
