// Loads a rank's weights. decoder.cc has the step itself, decoder_plan.cc what loading will take.
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/model/decoder.h"
#include "runtime/model/matrix_source.h"
#include "runtime/model/model_tensors.h"

namespace tandem::model {
namespace {

using parallel::ColumnParallelLinear;
using parallel::RowParallelLinear;

// Rows of one projection, with its bias where the model has one.
struct Projection {
  std::unique_ptr<MatrixSource> weight;
  std::unique_ptr<VectorSource> bias;
  parallel::RowSlice Slice(parallel::Range rows) const { return {weight.get(), bias.get(), rows}; }
};

absl::StatusOr<Projection> TakeProjection(const loader::ModelConfig& config,
                                          loader::Checkpoint& checkpoint, const Module& module,
                                          const WeightFormat& format,
                                          const DecoderOptions& options) {
  Projection projection;
  TANDEM_ASSIGN_OR_RETURN(StoredMatrix weight, TakeMatrix(config, checkpoint, module));
  projection.weight = std::make_unique<MatrixSource>(std::move(weight), format, options.packed,
                                                     options.layers == LayersIn::kFile);
  if (HasBias(config, checkpoint, module)) {
    TANDEM_ASSIGN_OR_RETURN(const loader::CheckpointTensor bias,
                            checkpoint.Take(module.name + ".bias", {module.rows}));
    projection.bias = std::make_unique<VectorSource>(bias);
  }
  return projection;
}

}  // namespace

absl::Status Decoder::LoadWeights() {
  TANDEM_RETURN_IF_ERROR(CheckTensors(config_, *checkpoint_));
  TANDEM_ASSIGN_OR_RETURN(const StoredMatrix embedding,
                          TakeMatrix(config_, *checkpoint_, EmbeddingModule(config_)));
  embedding_ = std::make_unique<EmbeddingTable>(embedding);
  if (options_.packed != nullptr) TANDEM_RETURN_IF_ERROR(embedding_->ReadFrom(*options_.packed));
  // Every rank looks up any row; each checks the rows of its own shard beforehand.
  const bool streamed = options_.layers == LayersIn::kFile;
  TANDEM_RETURN_IF_ERROR(embedding_->CheckRows(shard_.vocab, streamed));

  layers_.resize(config_.num_layers);
  const bool in_host = options_.layers == LayersIn::kHost;
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    if (in_host) TANDEM_RETURN_IF_ERROR(backend_.BeginHostLayer());
    TANDEM_RETURN_IF_ERROR(LoadLayer(i));
  }
  if (in_host) {
    TANDEM_ASSIGN_OR_RETURN(stream_, backend_.StreamHostLayers());
  }

  TANDEM_ASSIGN_OR_RETURN(loader::CheckpointTensor norm,
                          checkpoint_->Take(kFinalNorm, {config_.hidden_size}));
  TANDEM_ASSIGN_OR_RETURN(final_norm_, parallel::LoadVector(backend_, VectorSource(norm)));
  const HeldMatrix head_matrix = HeadMatrix(config_);
  const WeightFormat head_format =
      HeldFormat(config_, *checkpoint_, head_matrix, options_.weights, backend_);
  Projection head;
  if (config_.tie_word_embeddings) {
    head.weight = std::make_unique<MatrixSource>(embedding, head_format, options_.packed,
                                                 options_.layers == LayersIn::kFile);
  } else {
    TANDEM_ASSIGN_OR_RETURN(head, TakeProjection(config_, *checkpoint_, head_matrix.modules.front(),
                                                 head_format, options_));
  }
  const parallel::RowSlice slices[] = {head.Slice(shard_.vocab)};
  TANDEM_ASSIGN_OR_RETURN(head_, ColumnParallelLinear::Load(backend_, slices));
  weight_bytes_ += final_norm_.bytes() + head_.bytes();
  if (streamed) {
    TANDEM_RETURN_IF_ERROR(StartFileStream());
  } else {
    // Last: a tied head has been read from the file by now.
    TANDEM_RETURN_IF_ERROR(embedding_->KeepInMemory(options_.embedding));
    if (options_.packed != nullptr) packed_read_ = options_.packed->bytes_read();
  }
  TANDEM_RETURN_IF_ERROR(checkpoint_->CheckUnchanged());
  const bool kv_scales = config_.quantization && config_.quantization->has_kv_scales();
  return checkpoint_->CheckAllUsed([this, kv_scales](std::string_view name) {
    return loader::IsHarmlessLeftover(name, config_.tie_word_embeddings) ||
           (kv_scales && loader::IsKvScale(name));
  });
}

absl::Status Decoder::LoadLayer(int64_t index) {
  Layer& layer = layers_[index];
  const std::vector<HeldMatrix> matrices = LayerMatrices(config_, index);
  for (const HeldMatrix& matrix : matrices) {
    if (matrix.input_norm) TANDEM_RETURN_IF_ERROR(LoadNorm(*matrix.input_norm, layer));
    for (const Norm& norm : matrix.output_norms) TANDEM_RETURN_IF_ERROR(LoadNorm(norm, layer));
  }
  for (const HeldMatrix& matrix : matrices) TANDEM_RETURN_IF_ERROR(LoadMatrix(matrix, layer));
  weight_bytes_ += layer.input_norm.bytes() + layer.post_norm.bytes() + layer.q_norm.bytes() +
                   layer.k_norm.bytes() + layer.qkv.bytes() + layer.output.bytes() +
                   layer.gate_up.bytes() + layer.down.bytes();
  return absl::OkStatus();
}

absl::Status Decoder::LoadNorm(const Norm& norm, Layer& layer) {
  TANDEM_ASSIGN_OR_RETURN(const loader::CheckpointTensor tensor,
                          checkpoint_->Take(norm.name, {norm.size}));
  TANDEM_ASSIGN_OR_RETURN(kernels::Buffer weight,
                          parallel::LoadVector(backend_, VectorSource(tensor)));
  switch (norm.role) {
    case NormRole::kInput:
      layer.input_norm = std::move(weight);
      break;
    case NormRole::kPostAttention:
      layer.post_norm = std::move(weight);
      break;
    case NormRole::kQuery:
      layer.q_norm = std::move(weight);
      break;
    case NormRole::kKey:
      layer.k_norm = std::move(weight);
      break;
  }
  return absl::OkStatus();
}

absl::Status Decoder::LoadMatrix(const HeldMatrix& matrix, Layer& layer) {
  const WeightFormat format = HeldFormat(config_, *checkpoint_, matrix, options_.weights, backend_);
  std::vector<Projection> parts;
  for (const Module& module : matrix.modules) {
    TANDEM_ASSIGN_OR_RETURN(parts.emplace_back(),
                            TakeProjection(config_, *checkpoint_, module, format, options_));
  }
  if (matrix.row_parallel()) {
    TANDEM_ASSIGN_OR_RETURN(
        RowParallelLinear product,
        RowParallelLinear::Load(backend_, *parts.front().weight, parts.front().bias.get(),
                                matrix.leaf_size, RankLeaves(matrix, shard_)));
    (matrix.role == MatrixRole::kOutput ? layer.output : layer.down) = std::move(product);
    return absl::OkStatus();
  }
  std::vector<parallel::RowSlice> slices;
  for (size_t i = 0; i < parts.size(); ++i) {
    slices.push_back(parts[i].Slice(RankRows(config_, matrix.modules[i], shard_)));
  }
  TANDEM_ASSIGN_OR_RETURN(ColumnParallelLinear product,
                          ColumnParallelLinear::Load(backend_, slices));
  (matrix.role == MatrixRole::kQkv ? layer.qkv : layer.gate_up) = std::move(product);
  return absl::OkStatus();
}

absl::Status Decoder::StartFileStream() {
  const loader::PackedFile& file = *options_.packed;
  std::vector<std::vector<FileRange>> layers;
  const auto add = [&](std::span<const std::span<const std::byte>> pieces) {
    for (const std::span<const std::byte> piece : pieces) {
      const auto begin = static_cast<uint64_t>(piece.data() - file.image());
      layers.back().push_back({begin, begin + piece.size()});
    }
  };
  for (const Layer& layer : layers_) {
    layers.emplace_back();
    add(layer.qkv.mapped());
    add(layer.output.mapped());
    add(layer.gate_up.mapped());
    add(layer.down.mapped());
  }
  layers.emplace_back();
  add(head_.mapped());
  // A damage is found now, when the file can be made again, not in the middle of an answer.
  for (const std::vector<FileRange>& layer : layers) {
    for (const FileRange& range : WholePages(layer)) {
      TANDEM_RETURN_IF_ERROR(file.CheckPages(range.begin, range.end));
    }
  }
  weight_bytes_ += file.table_bytes();
  stream_ = std::make_unique<WeightStream>(file, layers, options_.stream_cpus);
  return absl::OkStatus();
}

}  // namespace tandem::model
