// Loading and planning of a rank's weights; the step itself is in decoder.cc.
#include <algorithm>

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
                                          const loader::PackedFile* packed) {
  Projection projection;
  TANDEM_ASSIGN_OR_RETURN(StoredMatrix weight, TakeMatrix(config, checkpoint, module));
  projection.weight = std::make_unique<MatrixSource>(std::move(weight), format, packed);
  if (HasBias(config, checkpoint, module)) {
    TANDEM_ASSIGN_OR_RETURN(const loader::CheckpointTensor bias,
                            checkpoint.Take(module.name + ".bias", {module.rows}));
    projection.bias = std::make_unique<VectorSource>(bias);
  }
  return projection;
}

parallel::Range HeadRows(parallel::Range heads, int64_t head_dim) {
  return {heads.begin * head_dim, heads.end * head_dim};
}

size_t AlignUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

absl::Status Decoder::LoadWeights() {
  TANDEM_RETURN_IF_ERROR(checkpoint_->CheckPresent(ExpectedTensors(config_, checkpoint_.get())));
  TANDEM_ASSIGN_OR_RETURN(const StoredMatrix embedding,
                          TakeMatrix(config_, *checkpoint_, EmbeddingModule(config_)));
  embedding_ = std::make_unique<EmbeddingTable>(embedding);
  // Every rank looks up any row, each checks its share.
  TANDEM_RETURN_IF_ERROR(embedding_->CheckRows(shard_.vocab));

  layers_.resize(config_.num_layers);
  for (int64_t i = 0; i < config_.num_layers; ++i) TANDEM_RETURN_IF_ERROR(LoadLayer(i));

  TANDEM_ASSIGN_OR_RETURN(loader::CheckpointTensor norm,
                          checkpoint_->Take(kFinalNorm, {config_.hidden_size}));
  TANDEM_ASSIGN_OR_RETURN(final_norm_, parallel::LoadVector(backend_, VectorSource(norm)));
  const Module head_module = HeadModule(config_);
  const WeightFormat head_format =
      HeldFormat(config_, *checkpoint_, {&head_module}, options_.weights.head);
  Projection head;
  if (config_.tie_word_embeddings) {
    head.weight = std::make_unique<MatrixSource>(embedding, head_format, options_.packed);
  } else {
    TANDEM_ASSIGN_OR_RETURN(
        head, TakeProjection(config_, *checkpoint_, head_module, head_format, options_.packed));
  }
  const parallel::RowSlice slices[] = {head.Slice(shard_.vocab)};
  TANDEM_ASSIGN_OR_RETURN(head_, ColumnParallelLinear::Load(backend_, slices));
  weight_bytes_ += final_norm_.bytes() + head_.bytes();
  const bool kv_scales = config_.quantization && config_.quantization->has_kv_scales();
  return checkpoint_->CheckAllUsed([this, kv_scales](std::string_view name) {
    return loader::IsHarmlessLeftover(name, config_.tie_word_embeddings) ||
           (kv_scales && loader::IsKvScale(name));
  });
}

absl::Status Decoder::LoadLayer(int64_t index) {
  Layer& layer = layers_[index];
  const LayerModules modules = ModulesOf(config_, index);
  const int64_t hidden = config_.hidden_size;
  const int64_t d = config_.head_dim;

  const auto load_norm = [&](std::string_view part, int64_t size,
                             kernels::Buffer& out) -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(const loader::CheckpointTensor tensor,
                            checkpoint_->Take(LayerTensor(index, part), {size}));
    TANDEM_ASSIGN_OR_RETURN(out, parallel::LoadVector(backend_, VectorSource(tensor)));
    return absl::OkStatus();
  };
  TANDEM_RETURN_IF_ERROR(load_norm("input_layernorm.weight", hidden, layer.input_norm));
  TANDEM_RETURN_IF_ERROR(load_norm("post_attention_layernorm.weight", hidden, layer.post_norm));
  if (config_.qk_norm) {
    TANDEM_RETURN_IF_ERROR(load_norm("self_attn.q_norm.weight", d, layer.q_norm));
    TANDEM_RETURN_IF_ERROR(load_norm("self_attn.k_norm.weight", d, layer.k_norm));
  }

  const auto held = [&](std::initializer_list<const Module*> merged) {
    return HeldFormat(config_, *checkpoint_, merged, options_.weights.body);
  };
  const auto take = [&](const Module& module, const WeightFormat& format) {
    return TakeProjection(config_, *checkpoint_, module, format, options_.packed);
  };
  const WeightFormat qkv_format = held({&modules.q, &modules.k, &modules.v});
  TANDEM_ASSIGN_OR_RETURN(const Projection q, take(modules.q, qkv_format));
  TANDEM_ASSIGN_OR_RETURN(const Projection k, take(modules.k, qkv_format));
  TANDEM_ASSIGN_OR_RETURN(const Projection v, take(modules.v, qkv_format));
  const parallel::RowSlice qkv[] = {q.Slice(HeadRows(shard_.heads, d)),
                                    k.Slice(HeadRows(shard_.kv_heads, d)),
                                    v.Slice(HeadRows(shard_.kv_heads, d))};
  TANDEM_ASSIGN_OR_RETURN(layer.qkv, ColumnParallelLinear::Load(backend_, qkv));

  TANDEM_ASSIGN_OR_RETURN(const Projection output, take(modules.o, held({&modules.o})));
  TANDEM_ASSIGN_OR_RETURN(layer.output,
                          RowParallelLinear::Load(backend_, *output.weight, output.bias.get(), d,
                                                  {shard_.heads.begin, shard_.heads.end}));

  const WeightFormat gate_up_format = held({&modules.gate, &modules.up});
  TANDEM_ASSIGN_OR_RETURN(const Projection gate, take(modules.gate, gate_up_format));
  TANDEM_ASSIGN_OR_RETURN(const Projection up, take(modules.up, gate_up_format));
  const parallel::RowSlice gate_up[] = {gate.Slice(shard_.ffn), up.Slice(shard_.ffn)};
  TANDEM_ASSIGN_OR_RETURN(layer.gate_up, ColumnParallelLinear::Load(backend_, gate_up));

  TANDEM_ASSIGN_OR_RETURN(const Projection down, take(modules.down, held({&modules.down})));
  TANDEM_ASSIGN_OR_RETURN(
      layer.down,
      RowParallelLinear::Load(backend_, *down.weight, down.bias.get(),
                              parallel::FfnLeafSize(config_.intermediate_size), shard_.ffn_leaves));

  weight_bytes_ += layer.input_norm.bytes() + layer.post_norm.bytes() + layer.q_norm.bytes() +
                   layer.k_norm.bytes() + layer.qkv.bytes() + layer.output.bytes() +
                   layer.gate_up.bytes() + layer.down.bytes();
  return absl::OkStatus();
}

// A matrix as a rank will hold it, of one module or several.
struct Decoder::PlannedMatrix {
  WeightFormat format;
  bool has_bias = false;
};

DecoderBytes Decoder::Plan(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::Backend& backend, const DecoderOptions& options) {
  const std::string head = HeadModule(config).name;
  return PlanMatrices(
      config,
      [&](MergedModules modules) {
        const WeightRequest& request =
            (*modules.begin())->name == head ? options.weights.head : options.weights.body;
        PlannedMatrix matrix = {HeldFormat(config, checkpoint, modules, request)};
        for (const Module* module : modules) {
          matrix.has_bias |= HasBias(config, checkpoint, *module);
        }
        return matrix;
      },
      plan, rank, backend, options);
}

DecoderBytes Decoder::Plan(const loader::ModelConfig& config, const FormatOf& format_of,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::Backend& backend, const DecoderOptions& options) {
  return PlanMatrices(
      config,
      [&](MergedModules modules) {
        PlannedMatrix matrix = {format_of(**modules.begin())};
        for (const Module* module : modules) matrix.has_bias |= module->has_bias;
        return matrix;
      },
      plan, rank, backend, options);
}

DecoderBytes Decoder::PlanMatrices(const loader::ModelConfig& config,
                                   absl::FunctionRef<PlannedMatrix(MergedModules)> plan_matrix,
                                   const parallel::ShardPlan& plan, int rank,
                                   const kernels::Backend& backend, const DecoderOptions& options) {
  const parallel::RankShard& shard = plan.ranks[rank];
  const int64_t hidden = config.hidden_size;
  const int64_t d = config.head_dim;
  const auto packed = [&](const WeightFormat& format, int64_t rows, int64_t columns, int64_t leaf,
                          kernels::LeafRange leaves) {
    return backend.PackedBytes({.dtype = format.dtype,
                                .quant = format.quant,
                                .rows = rows,
                                .global_columns = columns,
                                .leaf_size = leaf,
                                .leaves = leaves});
  };
  // Matrices that are merged by rows; a bias of one makes one of all.
  const auto column_parallel = [&](MergedModules modules, int64_t rows) {
    const int64_t leaf = parallel::kColumnLeafSize;
    const PlannedMatrix matrix = plan_matrix(modules);
    return packed(matrix.format, rows, hidden, leaf, {0, (hidden + leaf - 1) / leaf}) +
           (matrix.has_bias ? rows * sizeof(float) : 0);
  };
  const auto row_parallel = [&](const Module& module, int64_t leaf, kernels::LeafRange leaves) {
    const PlannedMatrix matrix = plan_matrix({&module});
    return packed(matrix.format, hidden, module.columns, leaf, leaves) +
           (matrix.has_bias ? hidden * sizeof(float) : 0);
  };
  DecoderBytes bytes;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerModules modules = ModulesOf(config, i);
    bytes.weights += (2 * hidden + (config.qk_norm ? 2 * d : 0)) * sizeof(float);
    bytes.weights += column_parallel({&modules.q, &modules.k, &modules.v},
                                     (shard.heads.size() + 2 * shard.kv_heads.size()) * d);
    bytes.weights += row_parallel(modules.o, d, {shard.heads.begin, shard.heads.end});
    bytes.weights += column_parallel({&modules.gate, &modules.up}, 2 * shard.ffn.size());
    bytes.weights += row_parallel(modules.down, parallel::FfnLeafSize(config.intermediate_size),
                                  shard.ffn_leaves);
  }
  bytes.weights += hidden * sizeof(float);
  const Module head = HeadModule(config);
  bytes.weights += column_parallel({&head}, shard.vocab.size());
  bytes.kv = options.num_blocks * KvCache::BlockBytes({.layers = config.num_layers,
                                                       .kv_heads = shard.kv_heads.size(),
                                                       .head_dim = d,
                                                       .dtype = options.kv_dtype});
  bytes.workspace = Workspace::Layout(config, plan, rank, backend, options, nullptr);
  return bytes;
}

size_t Decoder::Workspace::Layout(const loader::ModelConfig& config,
                                  const parallel::ShardPlan& plan, int rank,
                                  const kernels::Backend& backend, const DecoderOptions& options,
                                  Workspace* out) {
  const parallel::RankShard& shard = plan.ranks[rank];
  const int64_t t = options.max_tokens;
  const int64_t hidden = config.hidden_size;
  const int64_t subtrees = plan.tp == 1          ? 0
                           : backend.leaf_sums() ? std::max(plan.attention_tree.node_count(rank),
                                                            plan.ffn_tree.node_count(rank))
                                                 : 1;
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
  place(&Workspace::inverse_frequencies, config.head_dim / 2);
  place(&Workspace::step, StepMemory::Bytes(backend, options.step_limits()) / sizeof(float));
  return offset;
}

}  // namespace tandem::model
