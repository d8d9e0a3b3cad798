// The matrices of a model, listed in one place: planning, loading, packing and quantizing all walk
// these lists. Names are those of Llama and Qwen3 checkpoints as Transformers writes them; the
// families differ only in ModelConfig's flags.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "parallel/shard_plan.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/name_pattern.h"

namespace tandem::model {

inline constexpr std::string_view kEmbedding = "model.embed_tokens";
inline constexpr std::string_view kFinalNorm = "model.norm.weight";
inline constexpr std::string_view kHead = "lm_head";

// What the rows or the columns of a matrix are. Ranks split all of them but kHidden.
enum class Axis : uint8_t { kHidden, kHeads, kKvHeads, kFfn, kVocab };

// A matrix [rows, columns] of the checkpoint.
struct Module {
  std::string name;  // without ".weight"
  int64_t rows = 0;
  int64_t columns = 0;
  bool has_bias = false;  // by config.json
  Axis row_axis = Axis::kHidden;

  loader::ModuleClass kind() const {
    return name == kEmbedding ? loader::ModuleClass::kEmbedding : loader::ModuleClass::kLinear;
  }
};

enum class NormRole : uint8_t { kInput, kPostAttention, kQuery, kKey };

// The weight of a norm, a vector [size].
struct Norm {
  NormRole role = NormRole::kInput;
  std::string name;  // of the tensor, with ".weight"
  int64_t size = 0;
};

enum class MatrixRole : uint8_t { kQkv, kOutput, kGateUp, kDown, kHead };

// A matrix as ranks hold it: one module, or the rows of several modules with the same input, one
// module after the other.
struct HeldMatrix {
  MatrixRole role = MatrixRole::kHead;
  std::vector<Module> modules;
  Axis column_axis = Axis::kHidden;
  int64_t leaf_size = 0;           // columns of a leaf (parallel/shard_plan.h)
  std::optional<Norm> input_norm;  // its output is the input; absent: the input is another matrix's
  std::vector<Norm> output_norms;  // applied to each head of the output: q, k

  int64_t columns() const { return modules.front().columns; }
  // Row-parallel: ranks split the columns. Otherwise column-parallel: they split the rows.
  bool row_parallel() const { return column_axis != Axis::kHidden; }
};

// The matrices of a layer, in the order of the forward pass.
std::vector<HeldMatrix> LayerMatrices(const loader::ModelConfig& config, int64_t layer);
// One of them.
HeldMatrix LayerMatrix(const loader::ModelConfig& config, int64_t layer, MatrixRole role);
// The one that computes logits.
HeldMatrix HeadMatrix(const loader::ModelConfig& config);

Module EmbeddingModule(const loader::ModelConfig& config);
Module HeadModule(const loader::ModelConfig& config);  // the embedding, where they are tied

// Rows of a module that a rank holds, and leaves of its matrix's columns.
parallel::Range RankRows(const loader::ModelConfig& config, const Module& module,
                         const parallel::RankShard& shard);
kernels::LeafRange AllLeaves(const HeldMatrix& matrix);
kernels::LeafRange RankLeaves(const HeldMatrix& matrix, const parallel::RankShard& shard);

}  // namespace tandem::model
