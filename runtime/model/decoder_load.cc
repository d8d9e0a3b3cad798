// Loading and planning of a rank's weights; the step itself is in decoder.cc.
#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/model/decoder.h"
#include "runtime/model/model_tensors.h"
#include "runtime/model/tensor_source.h"

namespace tandem::model {
namespace {

using parallel::ColumnParallelLinear;
using parallel::RowParallelLinear;

// Takes the tensors of one layer by the shapes that the configuration says.
class LayerTensors {
 public:
  LayerTensors(loader::Checkpoint& checkpoint, int64_t layer)
      : checkpoint_(checkpoint), layer_(layer) {}

  absl::StatusOr<TensorSource> Take(std::string_view part, const std::vector<int64_t>& shape) {
    TANDEM_ASSIGN_OR_RETURN(loader::CheckpointTensor tensor,
                            checkpoint_.Take(LayerTensor(layer_, part), shape));
    return TensorSource(tensor);
  }

 private:
  loader::Checkpoint& checkpoint_;
  int64_t layer_;
};

// Rows of one projection, with its bias where the model has one.
struct Projection {
  std::unique_ptr<TensorSource> weight, bias;
  parallel::RowSlice Slice(parallel::Range rows) const { return {weight.get(), bias.get(), rows}; }
};

absl::StatusOr<Projection> TakeProjection(LayerTensors& tensors, const std::string& name,
                                          int64_t rows, int64_t columns, bool has_bias) {
  Projection projection;
  TANDEM_ASSIGN_OR_RETURN(TensorSource weight, tensors.Take(name + ".weight", {rows, columns}));
  projection.weight = std::make_unique<TensorSource>(weight);
  if (has_bias) {
    TANDEM_ASSIGN_OR_RETURN(TensorSource bias, tensors.Take(name + ".bias", {rows}));
    projection.bias = std::make_unique<TensorSource>(bias);
  }
  return projection;
}

parallel::Range HeadRows(parallel::Range heads, int64_t head_dim) {
  return {heads.begin * head_dim, heads.end * head_dim};
}

size_t AlignUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

absl::Status Decoder::LoadWeights() {
  TANDEM_RETURN_IF_ERROR(checkpoint_->CheckPresent(ExpectedTensors(config_)));
  const std::vector<int64_t> table_shape = {config_.vocab_size, config_.hidden_size};
  TANDEM_ASSIGN_OR_RETURN(loader::CheckpointTensor embedding,
                          checkpoint_->Take(kEmbedding, table_shape));
  embedding_ = std::make_unique<loader::CheckpointTensor>(embedding);

  layers_.resize(config_.num_layers);
  for (int64_t i = 0; i < config_.num_layers; ++i) TANDEM_RETURN_IF_ERROR(LoadLayer(i));

  TANDEM_ASSIGN_OR_RETURN(loader::CheckpointTensor norm,
                          checkpoint_->Take(kFinalNorm, {config_.hidden_size}));
  TANDEM_ASSIGN_OR_RETURN(final_norm_, parallel::LoadVector(backend_, TensorSource(norm)));
  loader::CheckpointTensor head = embedding;
  if (!config_.tie_word_embeddings) {
    TANDEM_ASSIGN_OR_RETURN(head, checkpoint_->Take(kHead, table_shape));
  }
  const TensorSource head_source(head);
  const parallel::RowSlice slices[] = {{&head_source, nullptr, shard_.vocab}};
  TANDEM_ASSIGN_OR_RETURN(head_, ColumnParallelLinear::Load(backend_, slices));
  weight_bytes_ += final_norm_.bytes() + head_.bytes();
  return checkpoint_->CheckAllUsed([this](std::string_view name) {
    return loader::IsHarmlessLeftover(name, config_.tie_word_embeddings);
  });
}

absl::Status Decoder::LoadLayer(int64_t index) {
  Layer& layer = layers_[index];
  LayerTensors tensors(*checkpoint_, index);
  const int64_t hidden = config_.hidden_size;
  const int64_t inner = config_.intermediate_size;
  const int64_t d = config_.head_dim;
  const int64_t q_rows = config_.num_heads * d;
  const int64_t kv_rows = config_.num_kv_heads * d;

  const auto load_norm = [&](std::string_view part, int64_t size,
                             kernels::Buffer& out) -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(TensorSource source, tensors.Take(part, {size}));
    TANDEM_ASSIGN_OR_RETURN(out, parallel::LoadVector(backend_, source));
    return absl::OkStatus();
  };
  TANDEM_RETURN_IF_ERROR(load_norm("input_layernorm.weight", hidden, layer.input_norm));
  TANDEM_RETURN_IF_ERROR(load_norm("post_attention_layernorm.weight", hidden, layer.post_norm));
  if (config_.qk_norm) {
    TANDEM_RETURN_IF_ERROR(load_norm("self_attn.q_norm.weight", d, layer.q_norm));
    TANDEM_RETURN_IF_ERROR(load_norm("self_attn.k_norm.weight", d, layer.k_norm));
  }

  const bool qkv_bias = config_.qkv_bias;
  TANDEM_ASSIGN_OR_RETURN(Projection q,
                          TakeProjection(tensors, "self_attn.q_proj", q_rows, hidden, qkv_bias));
  TANDEM_ASSIGN_OR_RETURN(Projection k,
                          TakeProjection(tensors, "self_attn.k_proj", kv_rows, hidden, qkv_bias));
  TANDEM_ASSIGN_OR_RETURN(Projection v,
                          TakeProjection(tensors, "self_attn.v_proj", kv_rows, hidden, qkv_bias));
  const parallel::RowSlice qkv[] = {q.Slice(HeadRows(shard_.heads, d)),
                                    k.Slice(HeadRows(shard_.kv_heads, d)),
                                    v.Slice(HeadRows(shard_.kv_heads, d))};
  TANDEM_ASSIGN_OR_RETURN(layer.qkv, ColumnParallelLinear::Load(backend_, qkv));

  TANDEM_ASSIGN_OR_RETURN(Projection output, TakeProjection(tensors, "self_attn.o_proj", hidden,
                                                            q_rows, config_.o_bias));
  TANDEM_ASSIGN_OR_RETURN(layer.output,
                          RowParallelLinear::Load(backend_, *output.weight, output.bias.get(), d,
                                                  {shard_.heads.begin, shard_.heads.end}));

  TANDEM_ASSIGN_OR_RETURN(
      Projection gate, TakeProjection(tensors, "mlp.gate_proj", inner, hidden, config_.mlp_bias));
  TANDEM_ASSIGN_OR_RETURN(Projection up,
                          TakeProjection(tensors, "mlp.up_proj", inner, hidden, config_.mlp_bias));
  const parallel::RowSlice gate_up[] = {gate.Slice(shard_.ffn), up.Slice(shard_.ffn)};
  TANDEM_ASSIGN_OR_RETURN(layer.gate_up, ColumnParallelLinear::Load(backend_, gate_up));

  TANDEM_ASSIGN_OR_RETURN(
      Projection down, TakeProjection(tensors, "mlp.down_proj", hidden, inner, config_.mlp_bias));
  TANDEM_ASSIGN_OR_RETURN(layer.down,
                          RowParallelLinear::Load(backend_, *down.weight, down.bias.get(),
                                                  parallel::FfnLeafSize(inner), shard_.ffn_leaves));

  weight_bytes_ += layer.input_norm.bytes() + layer.post_norm.bytes() + layer.q_norm.bytes() +
                   layer.k_norm.bytes() + layer.qkv.bytes() + layer.output.bytes() +
                   layer.gate_up.bytes() + layer.down.bytes();
  return absl::OkStatus();
}

DecoderBytes Decoder::Plan(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::Backend& backend, const DecoderOptions& options) {
  // A tensor that is missing or unusable is refused by Load; the plan goes on.
  const auto format_of = [&](const std::string& name) {
    const auto info = checkpoint.Find(name);
    return WeightFormat{info.ok() && (*info)->dtype.has_value() ? *(*info)->dtype : config.dtype};
  };
  return Plan(config, format_of, plan, rank, backend, options);
}

DecoderBytes Decoder::Plan(const loader::ModelConfig& config, const FormatOf& format_of,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::Backend& backend, const DecoderOptions& options) {
  const parallel::RankShard& shard = plan.ranks[rank];
  const int64_t hidden = config.hidden_size;
  const int64_t d = config.head_dim;
  const auto column_parallel = [&](const std::string& name, int64_t rows, bool bias) {
    const int64_t leaf = parallel::kColumnLeafSize;
    const WeightFormat format = format_of(name);
    return backend.PackedBytes({.dtype = format.dtype,
                                .quant = format.quant,
                                .rows = rows,
                                .global_columns = hidden,
                                .leaf_size = leaf,
                                .leaves = {0, (hidden + leaf - 1) / leaf}}) +
           (bias ? rows * sizeof(float) : 0);
  };
  const auto row_parallel = [&](const std::string& name, int64_t columns, int64_t leaf,
                                kernels::LeafRange leaves, bool bias) {
    const WeightFormat format = format_of(name);
    return backend.PackedBytes({.dtype = format.dtype,
                                .quant = format.quant,
                                .rows = hidden,
                                .global_columns = columns,
                                .leaf_size = leaf,
                                .leaves = leaves}) +
           (bias ? hidden * sizeof(float) : 0);
  };
  DecoderBytes bytes;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    bytes.weights += (2 * hidden + (config.qk_norm ? 2 * d : 0)) * sizeof(float);
    bytes.weights +=
        column_parallel(LayerTensor(i, "self_attn.q_proj.weight"),
                        (shard.heads.size() + 2 * shard.kv_heads.size()) * d, config.qkv_bias);
    bytes.weights += row_parallel(LayerTensor(i, "self_attn.o_proj.weight"), config.num_heads * d,
                                  d, {shard.heads.begin, shard.heads.end}, config.o_bias);
    bytes.weights += column_parallel(LayerTensor(i, "mlp.gate_proj.weight"), 2 * shard.ffn.size(),
                                     config.mlp_bias);
    bytes.weights += row_parallel(LayerTensor(i, "mlp.down_proj.weight"), config.intermediate_size,
                                  parallel::FfnLeafSize(config.intermediate_size), shard.ffn_leaves,
                                  config.mlp_bias);
  }
  bytes.weights += hidden * sizeof(float);
  bytes.weights += column_parallel(std::string(config.tie_word_embeddings ? kEmbedding : kHead),
                                   shard.vocab.size(), false);
  bytes.kv = options.num_blocks * KvCache::BlockBytes({.layers = config.num_layers,
                                                       .kv_heads = shard.kv_heads.size(),
                                                       .head_dim = d,
                                                       .dtype = options.kv_dtype});
  bytes.workspace = Workspace::Layout(config, plan, rank, options, nullptr);
  return bytes;
}

size_t Decoder::Workspace::Layout(const loader::ModelConfig& config,
                                  const parallel::ShardPlan& plan, int rank,
                                  const DecoderOptions& options, Workspace* out) {
  const parallel::RankShard& shard = plan.ranks[rank];
  const int64_t t = options.max_tokens;
  const int64_t hidden = config.hidden_size;
  const int64_t subtrees =
      plan.tp == 1 ? 0
                   : std::max(plan.attention_tree.node_count(rank), plan.ffn_tree.node_count(rank));
  size_t offset = 0;
  const auto place = [&](float* Workspace::*member, int64_t floats) {
    if (out != nullptr) {
      out->*member = reinterpret_cast<float*>(out->memory.as<std::byte>() + offset);
    }
    offset += AlignUp(floats * sizeof(float));
  };
  place(&Workspace::residual, t * hidden);
  place(&Workspace::normed, t * hidden);
  place(&Workspace::delta, t * hidden);
  place(&Workspace::qkv, t * (shard.heads.size() + 2 * shard.kv_heads.size()) * config.head_dim);
  place(&Workspace::attention, t * shard.heads.size() * config.head_dim);
  place(&Workspace::gate_up, t * 2 * shard.ffn.size());
  place(&Workspace::activated, t * shard.ffn.size());
  place(&Workspace::partials, subtrees * t * hidden);
  place(&Workspace::cos, t * config.head_dim / 2);
  place(&Workspace::sin, t * config.head_dim / 2);
  place(&Workspace::rows, options.max_rows * hidden);
  place(&Workspace::logits, options.max_rows * shard.vocab.size());
  return offset;
}

}  // namespace tandem::model
