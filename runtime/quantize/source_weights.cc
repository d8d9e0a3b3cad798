#include "runtime/quantize/source_weights.h"

#include <cstring>

#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "runtime/model/model_tensors.h"

namespace tandem::quantize {

absl::StatusOr<std::unique_ptr<SourceWeights>> SourceWeights::Take(
    loader::Checkpoint& checkpoint, const loader::ModelConfig& config) {
  auto weights = std::make_unique<SourceWeights>();
  for (const loader::ExpectedTensor& tensor : model::ExpectedTensors(config, nullptr)) {
    TANDEM_ASSIGN_OR_RETURN(const loader::CheckpointTensor taken,
                            checkpoint.Take(tensor.name, tensor.shape));
    weights->tensors_.emplace(tensor.name, taken);
  }
  TANDEM_RETURN_IF_ERROR(checkpoint.CheckAllUsed([&](std::string_view name) {
    return loader::IsHarmlessLeftover(name, config.tie_word_embeddings);
  }));
  return weights;
}

const loader::CheckpointTensor& SourceWeights::Get(const std::string& name) const {
  const auto found = tensors_.find(name);
  TANDEM_CHECK(found != tensors_.end());
  return found->second;
}

absl::Status SourceWeights::ReadRows(const std::string& name, int64_t begin, int64_t end,
                                     float* out) const {
  const loader::CheckpointTensor& tensor = Get(name);
  const kernels::DType dtype = tensor.dtype();
  if (dtype == kernels::DType::kF32) return tensor.CopyRows(begin, end, out);
  const int64_t count = (end - begin) * tensor.row_bytes() / 2;
  std::vector<uint16_t> raw(count);
  TANDEM_RETURN_IF_ERROR(tensor.CopyRows(begin, end, raw.data()));
  if (dtype == kernels::DType::kF16) {
    for (int64_t i = 0; i < count; ++i) out[i] = kernels::F16ToFloat(raw[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = kernels::Bf16ToFloat(raw[i]);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> SourceWeights::ReadVector(const std::string& name) const {
  if (!Has(name)) return std::vector<float>();
  std::vector<float> values(Get(name).rows());
  TANDEM_RETURN_IF_ERROR(ReadRows(name, 0, Get(name).rows(), values.data()));
  return values;
}

}  // namespace tandem::quantize
