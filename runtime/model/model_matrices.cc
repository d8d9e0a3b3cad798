#include "runtime/model/model_matrices.h"

#include "kernels/base/check.h"

namespace tandem::model {
namespace {

// A row of the table of a layer's matrices.
struct ModuleEntry {
  std::string_view name;
  Axis row_axis;
};
struct MatrixEntry {
  MatrixRole role;
  std::vector<ModuleEntry> modules;
  Axis column_axis;
  bool loader::ModelConfig::*has_bias;
  std::string_view input_norm;  // or empty
  NormRole norm_role;
};

const std::vector<MatrixEntry>& Table() {
  using loader::ModelConfig;
  static const std::vector<MatrixEntry> table = {
      {MatrixRole::kQkv,
       {{"self_attn.q_proj", Axis::kHeads},
        {"self_attn.k_proj", Axis::kKvHeads},
        {"self_attn.v_proj", Axis::kKvHeads}},
       Axis::kHidden,
       &ModelConfig::qkv_bias,
       "input_layernorm.weight",
       NormRole::kInput},
      {MatrixRole::kOutput,
       {{"self_attn.o_proj", Axis::kHidden}},
       Axis::kHeads,
       &ModelConfig::o_bias,
       "",
       {}},
      {MatrixRole::kGateUp,
       {{"mlp.gate_proj", Axis::kFfn}, {"mlp.up_proj", Axis::kFfn}},
       Axis::kHidden,
       &ModelConfig::mlp_bias,
       "post_attention_layernorm.weight",
       NormRole::kPostAttention},
      {MatrixRole::kDown,
       {{"mlp.down_proj", Axis::kHidden}},
       Axis::kFfn,
       &ModelConfig::mlp_bias,
       "",
       {}},
  };
  return table;
}

int64_t SizeOf(const loader::ModelConfig& config, Axis axis) {
  switch (axis) {
    case Axis::kHidden:
      return config.hidden_size;
    case Axis::kHeads:
      return config.num_heads * config.head_dim;
    case Axis::kKvHeads:
      return config.num_kv_heads * config.head_dim;
    case Axis::kFfn:
      return config.intermediate_size;
    case Axis::kVocab:
      return config.vocab_size;
  }
  TANDEM_CHECK(false);
}

// Columns of one leaf of a matrix with such columns.
int64_t LeafSize(const loader::ModelConfig& config, Axis column_axis) {
  switch (column_axis) {
    case Axis::kHeads:
      return config.head_dim;
    case Axis::kFfn:
      return parallel::FfnLeafSize(config.intermediate_size);
    default:
      return parallel::kColumnLeafSize;
  }
}

parallel::Range HeadRows(parallel::Range heads, int64_t head_dim) {
  return {heads.begin * head_dim, heads.end * head_dim};
}

}  // namespace

std::vector<HeldMatrix> LayerMatrices(const loader::ModelConfig& config, int64_t layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const auto name = [&](std::string_view part) { return prefix + std::string(part); };
  std::vector<HeldMatrix> matrices;
  for (const MatrixEntry& entry : Table()) {
    HeldMatrix& matrix = matrices.emplace_back();
    matrix.role = entry.role;
    matrix.column_axis = entry.column_axis;
    matrix.leaf_size = LeafSize(config, entry.column_axis);
    for (const ModuleEntry& module : entry.modules) {
      matrix.modules.push_back({.name = name(module.name),
                                .rows = SizeOf(config, module.row_axis),
                                .columns = SizeOf(config, entry.column_axis),
                                .has_bias = config.*entry.has_bias,
                                .row_axis = module.row_axis});
    }
    if (!entry.input_norm.empty()) {
      matrix.input_norm = {entry.norm_role, name(entry.input_norm), config.hidden_size};
    }
    if (entry.role == MatrixRole::kQkv && config.qk_norm) {
      matrix.output_norms = {{NormRole::kQuery, name("self_attn.q_norm.weight"), config.head_dim},
                             {NormRole::kKey, name("self_attn.k_norm.weight"), config.head_dim}};
    }
  }
  return matrices;
}

HeldMatrix LayerMatrix(const loader::ModelConfig& config, int64_t layer, MatrixRole role) {
  for (const HeldMatrix& matrix : LayerMatrices(config, layer)) {
    if (matrix.role == role) return matrix;
  }
  TANDEM_CHECK(false);
}

HeldMatrix HeadMatrix(const loader::ModelConfig& config) {
  HeldMatrix head;
  head.role = MatrixRole::kHead;
  head.modules = {HeadModule(config)};
  head.leaf_size = LeafSize(config, head.column_axis);
  return head;
}

Module EmbeddingModule(const loader::ModelConfig& config) {
  return {.name = std::string(kEmbedding),
          .rows = config.vocab_size,
          .columns = config.hidden_size,
          .row_axis = Axis::kVocab};
}

Module HeadModule(const loader::ModelConfig& config) {
  Module head = EmbeddingModule(config);
  if (!config.tie_word_embeddings) head.name = std::string(kHead);
  return head;
}

parallel::Range RankRows(const loader::ModelConfig& config, const Module& module,
                         const parallel::RankShard& shard) {
  switch (module.row_axis) {
    case Axis::kHidden:
      return {0, module.rows};
    case Axis::kHeads:
      return HeadRows(shard.heads, config.head_dim);
    case Axis::kKvHeads:
      return HeadRows(shard.kv_heads, config.head_dim);
    case Axis::kFfn:
      return shard.ffn;
    case Axis::kVocab:
      return shard.vocab;
  }
  TANDEM_CHECK(false);
}

kernels::LeafRange AllLeaves(const HeldMatrix& matrix) {
  return {0, (matrix.columns() + matrix.leaf_size - 1) / matrix.leaf_size};
}

kernels::LeafRange RankLeaves(const HeldMatrix& matrix, const parallel::RankShard& shard) {
  switch (matrix.column_axis) {
    case Axis::kHeads:
      return {shard.heads.begin, shard.heads.end};
    case Axis::kFfn:
      return shard.ffn_leaves;
    default:
      return AllLeaves(matrix);
  }
}

}  // namespace tandem::model
