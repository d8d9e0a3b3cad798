// Loading and planning of a rank's weights; the step itself is in decoder.cc.
#include <algorithm>
#include <numeric>

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
  const Module head_module = HeadModule(config_);
  const WeightFormat head_format =
      HeldFormat(config_, *checkpoint_, {&head_module}, options_.weights.head, backend_);
  Projection head;
  if (config_.tie_word_embeddings) {
    head.weight = std::make_unique<MatrixSource>(embedding, head_format, options_.packed,
                                                 options_.layers == LayersIn::kFile);
  } else {
    TANDEM_ASSIGN_OR_RETURN(
        head, TakeProjection(config_, *checkpoint_, head_module, head_format, options_));
  }
  const parallel::RowSlice slices[] = {head.Slice(shard_.vocab)};
  TANDEM_ASSIGN_OR_RETURN(head_, ColumnParallelLinear::Load(backend_, slices));
  weight_bytes_ += final_norm_.bytes() + head_.bytes();
  if (options_.layers == LayersIn::kFile) StartFileStream();
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
    return HeldFormat(config_, *checkpoint_, merged, options_.weights.body, backend_);
  };
  const auto take = [&](const Module& module, const WeightFormat& format) {
    return TakeProjection(config_, *checkpoint_, module, format, options_);
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

void Decoder::StartFileStream() {
  const loader::MappedFile& file = options_.packed->mapping();
  std::vector<std::vector<FileRange>> layers;
  const auto add = [&](std::span<const std::span<const std::byte>> pieces) {
    for (const std::span<const std::byte> piece : pieces) {
      const auto begin = static_cast<uint64_t>(piece.data() - file.data());
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
  stream_ = std::make_unique<WeightStream>(file, layers, options_.stream_cpus);
}

// A matrix as a rank will hold it, of one module or several.
struct Decoder::PlannedMatrix {
  WeightFormat format;
  bool has_bias = false;
};

DecoderBytes Decoder::Plan(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::DeviceLayout& device, const DecoderOptions& options) {
  const std::string head = HeadModule(config).name;
  return PlanMatrices(
      config,
      [&](MergedModules modules) {
        const WeightRequest& request =
            (*modules.begin())->name == head ? options.weights.head : options.weights.body;
        PlannedMatrix matrix = {HeldFormat(config, checkpoint, modules, request, device)};
        for (const Module* module : modules) {
          matrix.has_bias |= HasBias(config, checkpoint, *module);
        }
        return matrix;
      },
      plan, rank, device, options);
}

DecoderBytes Decoder::Plan(const loader::ModelConfig& config, const FormatOf& format_of,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::DeviceLayout& device, const DecoderOptions& options) {
  return PlanMatrices(
      config,
      [&](MergedModules modules) {
        PlannedMatrix matrix = {format_of(**modules.begin())};
        for (const Module* module : modules) matrix.has_bias |= module->has_bias;
        return matrix;
      },
      plan, rank, device, options);
}

DecoderBytes Decoder::PlanMatrices(const loader::ModelConfig& config,
                                   absl::FunctionRef<PlannedMatrix(MergedModules)> plan_matrix,
                                   const parallel::ShardPlan& plan, int rank,
                                   const kernels::DeviceLayout& device,
                                   const DecoderOptions& options) {
  const parallel::RankShard& shard = plan.ranks[rank];
  const int64_t hidden = config.hidden_size;
  const int64_t d = config.head_dim;
  DecoderBytes bytes;
  std::vector<uint64_t> layers;  // what of each is streamed, then of the head
  // Rows of matrices that are merged; a bias of one makes one of all.
  struct Part {
    const Module* module;
    parallel::Range rows;
  };
  const auto add = [&](std::initializer_list<Part> parts, const PlannedMatrix& matrix, int64_t leaf,
                       kernels::LeafRange leaves) {
    kernels::LinearSpec spec = {.dtype = matrix.format.dtype,
                                .quant = matrix.format.quant,
                                .global_columns = parts.begin()->module->columns,
                                .leaf_size = leaf,
                                .leaves = leaves};
    std::vector<kernels::PackedRows> rows;
    for (const Part& part : parts) {
      kernels::LinearSpec whole = spec;
      whole.rows = part.module->rows;
      whole.leaves = {0, (spec.global_columns + leaf - 1) / leaf};
      rows.push_back({.whole = whole, .row_begin = part.rows.begin, .row_end = part.rows.end});
      spec.rows += part.rows.size();
    }
    if (matrix.has_bias) bytes.weights += spec.rows * sizeof(float);
    if (options.layers != LayersIn::kFile) {
      (options.layers == LayersIn::kHost ? layers.back() : bytes.weights) +=
          device.PackedBytes(spec);
      return;
    }
    const kernels::MappedView view = device.ViewPacked(spec, rows);
    bytes.weights += view.copied_bytes;
    std::vector<std::vector<FileRange>> ranges(rows.size());
    for (const kernels::MappedView::Piece& piece : view.pieces) {
      ranges[piece.matrix].push_back({piece.offset, piece.offset + piece.bytes});
    }
    // A matrix begins on a page.
    for (std::vector<FileRange>& of : ranges) {
      for (const FileRange& pages : WholePages(std::move(of))) layers.back() += pages.size();
    }
  };
  const int64_t column_leaf = parallel::kColumnLeafSize;
  const kernels::LeafRange all_columns = {0, (hidden + column_leaf - 1) / column_leaf};
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerModules m = ModulesOf(config, i);
    layers.push_back(0);
    bytes.weights += (2 * hidden + (config.qk_norm ? 2 * d : 0)) * sizeof(float);
    const parallel::Range kv_rows = HeadRows(shard.kv_heads, d);
    add({{&m.q, HeadRows(shard.heads, d)}, {&m.k, kv_rows}, {&m.v, kv_rows}},
        plan_matrix({&m.q, &m.k, &m.v}), column_leaf, all_columns);
    add({{&m.o, {0, hidden}}}, plan_matrix({&m.o}), d, {shard.heads.begin, shard.heads.end});
    add({{&m.gate, shard.ffn}, {&m.up, shard.ffn}}, plan_matrix({&m.gate, &m.up}), column_leaf,
        all_columns);
    add({{&m.down, {0, hidden}}}, plan_matrix({&m.down}),
        parallel::FfnLeafSize(config.intermediate_size), shard.ffn_leaves);
  }
  bytes.weights += hidden * sizeof(float);
  const Module head = HeadModule(config);
  layers.push_back(0);
  add({{&head, shard.vocab}}, plan_matrix({&head}), column_leaf, all_columns);
  if (options.layers == LayersIn::kHost) {
    bytes.weights += layers.back();
    layers.pop_back();
    bytes.present = 2 * *std::max_element(layers.begin(), layers.end());
  } else {
    bytes.present = LargestPair(layers);
  }
  bytes.weights += bytes.present;
  bytes.streamed = std::accumulate(layers.begin(), layers.end(), uint64_t{0});
  bytes.kv = options.num_blocks * KvCache::BlockBytes({.layers = config.num_layers,
                                                       .kv_heads = shard.kv_heads.size(),
                                                       .head_dim = d,
                                                       .dtype = options.kv_dtype});
  bytes.workspace = Workspace::Layout(config, plan, rank, device, options, nullptr);
  return bytes;
}

size_t Decoder::Workspace::Layout(const loader::ModelConfig& config,
                                  const parallel::ShardPlan& plan, int rank,
                                  const kernels::DeviceLayout& device,
                                  const DecoderOptions& options, Workspace* out) {
  const parallel::RankShard& shard = plan.ranks[rank];
  const int64_t t = options.max_tokens;
  const int64_t hidden = config.hidden_size;
  const int64_t subtrees = plan.tp == 1         ? 0
                           : device.leaf_sums() ? std::max(plan.attention_tree.node_count(rank),
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
  place(&Workspace::step, StepMemory::Bytes(device, options.step_limits()) / sizeof(float));
  if (device.surveys()) {
    place(&Workspace::sampling, RowSampling::Bytes(plan, options.max_rows) / sizeof(float));
  }
  return offset;
}

}  // namespace tandem::model
