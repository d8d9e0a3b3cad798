// The folder that `tandem quantize` writes.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/loader/model_folder.h"

namespace tandem::launcher {

// OUT appears whole or not at all: files are written to OUT.partial, which Finish renames.
class OutputFolder {
 public:
  // INVALID_ARGUMENT where OUT exists already, or OUT.partial of an earlier attempt.
  static absl::StatusOr<std::unique_ptr<OutputFolder>> Create(std::string path);
  // Removes what was written, unless Finish has returned OK.
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  // Where files go until Finish.
  const std::string& path() const { return partial_; }

  absl::Status Finish();

 private:
  OutputFolder(std::string path, std::string partial)
      : path_(std::move(path)), partial_(std::move(partial)) {}
  const std::string path_, partial_;
  bool finished_ = false;
};

// Copies all files of the model but its weights and config.json: tokenizer, template,
// generation_config.json, licence. Skips files of more than 64 MiB, with a line on stderr.
absl::Status CopySideFiles(const loader::ModelFolder& folder, const std::string& to);

}  // namespace tandem::launcher
