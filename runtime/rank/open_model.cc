#include "runtime/rank/open_model.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "runtime/loader/hf_config.h"
#include "runtime/model/model_tensors.h"

namespace tandem::rank {
namespace {

absl::StatusOr<std::unique_ptr<kernels::Backend>> MakeBackend(const RankOptions& options,
                                                              const Placement& placed) {
  const Binding& binding = placed.binding;
  if (options.device == "cuda") {
    if (!options.packed_cache.empty()) {
      return absl::InvalidArgumentError(
          "--packed-cache: found a folder, expected none with --device cuda, which does not keep "
          "packed weights; leave it out");
    }
    return kernels::MakeCudaBackend({.device = placed.local_rank,
                                     .deterministic = options.deterministic,
                                     .load_threads = binding.threads,
                                     .load_cpus = binding.cpus});
  }
  auto backend = kernels::MakeCpuBackend(
      options.isa, {.threads = binding.threads, .cpus = binding.cpus, .spin = binding.own_cores});
  if (backend.ok()) return backend;
  return absl::Status(backend.status().code(),
                      absl::StrCat("--", std::string(backend.status().message())));
}

absl::Status CheckContext(const RankOptions& options, const loader::ModelConfig& config) {
  if (options.max_model_len <= config.max_position_embeddings) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--max-model-len: found ", options.max_model_len, ", expected at most ",
                   config.max_position_embeddings, ", the model's max_position_embeddings"));
}

}  // namespace

absl::StatusOr<OpenedModel> OpenModel(const RankOptions& options, const Placement& placed) {
  TANDEM_ASSIGN_OR_RETURN(loader::ModelFolder folder, loader::ModelFolder::Open(options.model));
  OpenedModel opened = {.folder = std::move(folder)};
  TANDEM_ASSIGN_OR_RETURN(opened.config, loader::ReadConfig(opened.folder));
  TANDEM_ASSIGN_OR_RETURN(opened.generation, loader::ReadGenerationConfig(opened.folder));
  TANDEM_ASSIGN_OR_RETURN(opened.checkpoint, loader::Checkpoint::Open(opened.folder));
  const loader::ModelConfig& config = opened.config;
  const loader::Checkpoint& checkpoint = *opened.checkpoint;
  // Shapes are checked before anything is sized by them.
  TANDEM_RETURN_IF_ERROR(model::CheckTensors(config, checkpoint));
  TANDEM_ASSIGN_OR_RETURN(
      opened.weights,
      model::WeightRequests::Parse(options.dtype, options.group_size, options.head_dtype));
  const model::WeightFormat embedding =
      model::StoredFormat(config, checkpoint, model::EmbeddingModule(config));
  TANDEM_ASSIGN_OR_RETURN(
      opened.kv_dtype, KvDType(options.kv_dtype, embedding.quant ? config.dtype : embedding.dtype));
  TANDEM_ASSIGN_OR_RETURN(opened.backend, MakeBackend(options, placed));
  TANDEM_RETURN_IF_ERROR(opened.weights.Check(*opened.backend));
  const auto held = [&](const model::HeldMatrix& matrix) {
    return model::FormatName(
        model::HeldFormat(config, checkpoint, matrix, opened.weights, *opened.backend));
  };
  opened.weight_format = held(model::LayerMatrix(config, 0, model::MatrixRole::kGateUp));
  opened.head_format = held(model::HeadMatrix(config));
  TANDEM_RETURN_IF_ERROR(CheckContext(options, config));
  return opened;
}

void LogModelWarnings(const OpenedModel& opened) {
  const auto& quantization = opened.config.quantization;
  if (!quantization) return;
  for (const std::string& warning : quantization->warnings()) spdlog::warn("{}", warning);
  if (quantization->method() != "fp8") return;
  const auto& tensors = opened.checkpoint->ListTensors();
  const auto scale = std::ranges::find_if(
      tensors, [](const loader::TensorInfo& info) { return loader::IsKvScale(info.name); });
  if (scale == tensors.end()) return;
  spdlog::warn("{} and the other KV scales are ignored: --kv-dtype sets the KV cache's type",
               scale->name);
}

}  // namespace tandem::rank
