// What a rank will hold, from config.json and the files' headers alone.
#include <algorithm>
#include <numeric>

#include "runtime/model/decoder.h"
#include "runtime/model/model_tensors.h"

namespace tandem::model {
namespace {

size_t AlignUp(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Adds up the bytes of one rank's weights, matrix by matrix.
class WeightPlanner {
 public:
  WeightPlanner(const loader::ModelConfig& config, const parallel::RankShard& shard,
                const kernels::DeviceLayout& device, LayersIn layers)
      : config_(config), shard_(shard), device_(device), layers_in_(layers) {}

  // What follows belongs to the next layer; the head counts as one.
  void BeginLayer() { streamed_.push_back(0); }

  void AddVector(int64_t size) { resident_ += size * sizeof(float); }

  // Of an entry of the packed file.
  void AddDigests(uint64_t bytes) {
    constexpr uint64_t kPage = loader::kPackedPage;
    resident_ += loader::PackedFile::TableBytes((bytes + kPage - 1) / kPage * kPage);
  }

  void Add(const HeldMatrix& matrix, const WeightFormat& format, bool has_bias) {
    kernels::LinearSpec spec = {.dtype = format.dtype,
                                .quant = format.quant,
                                .global_columns = matrix.columns(),
                                .leaf_size = matrix.leaf_size,
                                .leaves = RankLeaves(matrix, shard_)};
    std::vector<kernels::PackedRows> rows;
    for (const Module& module : matrix.modules) {
      kernels::LinearSpec whole = spec;
      whole.rows = module.rows;
      whole.leaves = AllLeaves(matrix);
      const parallel::Range own = RankRows(config_, module, shard_);
      rows.push_back({.whole = whole, .row_begin = own.begin, .row_end = own.end});
      spec.rows += own.size();
    }
    // If one module of a merged matrix has a bias, all its rows have one.
    if (has_bias) AddVector(spec.rows);
    if (layers_in_ == LayersIn::kFile) {
      AddMapped(spec, rows);
    } else {
      (layers_in_ == LayersIn::kHost ? streamed_.back() : resident_) += device_.PackedBytes(spec);
    }
  }

  void Finish(DecoderBytes* bytes) {
    if (layers_in_ == LayersIn::kHost) {
      resident_ += streamed_.back();  // the head stays on the device
      streamed_.pop_back();
      bytes->present = 2 * *std::max_element(streamed_.begin(), streamed_.end());
    } else {
      bytes->present = LargestPair(streamed_);
    }
    bytes->weights = resident_ + bytes->present;
    bytes->streamed = std::accumulate(streamed_.begin(), streamed_.end(), uint64_t{0});
  }

 private:
  // A matrix that stays in the packed file: its whole pages there, and what has to be copied. Every
  // rank keeps the digests of the whole matrix.
  void AddMapped(const kernels::LinearSpec& spec, const std::vector<kernels::PackedRows>& rows) {
    for (const kernels::PackedRows& matrix : rows) AddDigests(device_.PackedBytes(matrix.whole));
    const kernels::PackedRowsPlan packed = device_.PlanPackedRows(spec, rows);
    resident_ += packed.copied_bytes;
    std::vector<std::vector<FileRange>> ranges(rows.size());
    for (const kernels::PackedRowsPlan::Range& range : packed.in_place) {
      ranges[range.matrix].push_back({range.offset, range.offset + range.bytes});
    }
    // Each matrix begins on a page of its own.
    for (std::vector<FileRange>& of_matrix : ranges) {
      for (const FileRange& pages : WholePages(std::move(of_matrix))) {
        streamed_.back() += pages.size();
      }
    }
  }

  const loader::ModelConfig& config_;
  const parallel::RankShard& shard_;
  const kernels::DeviceLayout& device_;
  const LayersIn layers_in_;
  uint64_t resident_ = 0;
  std::vector<uint64_t> streamed_;  // by layer, then the head
};

}  // namespace

DecoderBytes Decoder::Plan(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::DeviceLayout& device, const DecoderOptions& options) {
  DecoderOptions with_embedding = options;
  with_embedding.embedding.stored_bytes = EmbeddingBytes(config, checkpoint);
  return PlanMatrices(
      config,
      [&](const HeldMatrix& matrix) {
        PlannedMatrix planned = {HeldFormat(config, checkpoint, matrix, options.weights, device)};
        for (const Module& module : matrix.modules) {
          planned.has_bias |= HasBias(config, checkpoint, module);
        }
        return planned;
      },
      plan, rank, device, with_embedding);
}

DecoderBytes Decoder::Plan(const loader::ModelConfig& config, const FormatOf& format_of,
                           const parallel::ShardPlan& plan, int rank,
                           const kernels::DeviceLayout& device, const DecoderOptions& options) {
  return PlanMatrices(
      config,
      [&](const HeldMatrix& matrix) {
        PlannedMatrix planned = {format_of(matrix.modules.front())};
        for (const Module& module : matrix.modules) planned.has_bias |= module.has_bias;
        return planned;
      },
      plan, rank, device, options);
}

DecoderBytes Decoder::PlanMatrices(const loader::ModelConfig& config,
                                   absl::FunctionRef<PlannedMatrix(const HeldMatrix&)> plan_matrix,
                                   const parallel::ShardPlan& plan, int rank,
                                   const kernels::DeviceLayout& device,
                                   const DecoderOptions& options) {
  const parallel::RankShard& shard = plan.ranks[rank];
  WeightPlanner weights(config, shard, device, options.layers);
  const auto add = [&](const HeldMatrix& matrix) {
    const PlannedMatrix planned = plan_matrix(matrix);
    weights.Add(matrix, planned.format, planned.has_bias);
  };
  for (int64_t i = 0; i < config.num_layers; ++i) {
    weights.BeginLayer();
    for (const HeldMatrix& matrix : LayerMatrices(config, i)) {
      if (matrix.input_norm) weights.AddVector(matrix.input_norm->size);
      for (const Norm& norm : matrix.output_norms) weights.AddVector(norm.size);
      add(matrix);
    }
  }
  weights.AddVector(config.hidden_size);  // the final norm
  weights.BeginLayer();
  add(HeadMatrix(config));

  DecoderBytes bytes;
  const EmbeddingMemory& embedding = options.embedding;
  if (options.layers == LayersIn::kFile) {
    weights.AddDigests(embedding.stored_bytes);
  } else {
    bytes.embedding = EmbeddingPart(embedding.stored_bytes, embedding.part, embedding.parts).size();
  }
  weights.Finish(&bytes);
  bytes.kv = options.num_blocks * KvCache::BlockBytes({.layers = config.num_layers,
                                                       .kv_heads = shard.kv_heads.size(),
                                                       .head_dim = config.head_dim,
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
  const int64_t subtrees = plan.tp == 1             ? 0
                           : device.KeepsLeafTree() ? std::max(plan.attention_tree.node_count(rank),
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
  if (device.SamplesOnDevice()) {
    place(&Workspace::sampling, RowSampling::Bytes(plan, options.max_rows) / sizeof(float));
  }
  return offset;
}

}  // namespace tandem::model
