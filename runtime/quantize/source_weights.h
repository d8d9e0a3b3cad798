// The tensors of an unquantized checkpoint as `tandem quantize` reads them: each taken once, some
// rows at a time, widened to fp32.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"

namespace tandem::quantize {

class SourceWeights {
 public:
  // Takes every tensor that the model needs. Tensors that are left over are an error, as when the
  // model is served. The checkpoint outlives this object.
  static absl::StatusOr<std::unique_ptr<SourceWeights>> Take(loader::Checkpoint& checkpoint,
                                                             const loader::ModelConfig& config);

  bool Has(const std::string& name) const { return tensors_.count(name) != 0; }
  const loader::CheckpointTensor& Get(const std::string& name) const;

  // Rows [begin, end) of a matrix or vector, row-major.
  absl::Status ReadRows(const std::string& name, int64_t begin, int64_t end, float* out) const;
  // All of a vector; empty where the model has none of that name.
  absl::StatusOr<std::vector<float>> ReadVector(const std::string& name) const;

 private:
  std::unordered_map<std::string, loader::CheckpointTensor> tensors_;
};

}  // namespace tandem::quantize
