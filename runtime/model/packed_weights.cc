#include "runtime/model/packed_weights.h"

#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/linear.h"
#include "runtime/loader/quantize_rows.h"
#include "runtime/model/embedding_table.h"
#include "runtime/model/matrix_source.h"
#include "runtime/model/model_tensors.h"

namespace tandem::model {
namespace {

// All fields of a request: more files than needed are better than one too few.
std::string Describe(const WeightRequest& request) {
  return absl::StrCat(request.bits, " bits, groups ", request.group_size, ", ",
                      request.dtype ? std::string(kernels::DTypeName(*request.dtype)) : "stored");
}

// Calls fn(module, format, leaf_size) for every matrix of the model, until one fails. Modules that
// ranks hold as one matrix are packed one by one, in one format.
template <typename Fn>
absl::Status ForEachModule(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                           const WeightRequests& weights, const kernels::Backend& backend,
                           const Fn& fn) {
  const auto each = [&](const HeldMatrix& matrix) -> absl::Status {
    const WeightFormat format = HeldFormat(config, checkpoint, matrix, weights, backend);
    for (const Module& module : matrix.modules) {
      TANDEM_RETURN_IF_ERROR(fn(module, format, matrix.leaf_size));
    }
    return absl::OkStatus();
  };
  for (int64_t i = 0; i < config.num_layers; ++i) {
    for (const HeldMatrix& matrix : LayerMatrices(config, i)) {
      TANDEM_RETURN_IF_ERROR(each(matrix));
    }
  }
  return each(HeadMatrix(config));
}

}  // namespace

absl::StatusOr<std::string> PackedKey(const loader::Checkpoint& checkpoint,
                                      const WeightRequests& weights,
                                      const kernels::Backend& backend) {
  TANDEM_ASSIGN_OR_RETURN(const uint64_t samples, checkpoint.SampleDigest());
  std::string key = absl::StrCat(
      "model ", absl::Hex(checkpoint.Identity()), ", samples ", absl::Hex(samples), ", ",
      std::string(backend.packed_layout()), ", quantizer ", loader::kQuantizerVersion,
      ", body: ", Describe(weights.body), ", head: ", Describe(weights.head));
  for (size_t i = 0; i < checkpoint.file_count(); ++i) {
    std::error_code ignored;
    const auto time = std::filesystem::last_write_time(checkpoint.file(i).file().path(), ignored);
    absl::StrAppend(&key, ", ", checkpoint.file(i).file().size(), " bytes of ",
                    std::chrono::nanoseconds(time.time_since_epoch()).count());
  }
  return key;
}

absl::Status WritePackedWeights(const loader::ModelConfig& config, loader::Checkpoint& checkpoint,
                                const WeightRequests& weights, kernels::Backend& backend,
                                loader::PackedFileWriter& writer) {
  TANDEM_ASSIGN_OR_RETURN(const StoredMatrix embedding,
                          TakeMatrix(config, checkpoint, EmbeddingModule(config)));
  TANDEM_RETURN_IF_ERROR(WriteEmbedding(embedding, writer));
  const std::string head = HeadMatrix(config).modules.front().name;
  TANDEM_RETURN_IF_ERROR(ForEachModule(
      config, checkpoint, weights, backend,
      [&](const Module& module, const WeightFormat& format, int64_t leaf_size) -> absl::Status {
        StoredMatrix stored = embedding;
        if (!config.tie_word_embeddings || module.name != head) {
          TANDEM_ASSIGN_OR_RETURN(stored, TakeMatrix(config, checkpoint, module));
        }
        MatrixSource source(std::move(stored), format);
        TANDEM_ASSIGN_OR_RETURN(const auto weight, parallel::PackWhole(backend, source, leaf_size));
        return writer.Append(source.name(), PackedDescription(weight->spec), weight->packed());
      }));
  return checkpoint.CheckUnchanged();
}

absl::Status CheckPackedWeights(const loader::ModelConfig& config,
                                const loader::Checkpoint& checkpoint, const WeightRequests& weights,
                                const kernels::Backend& backend, const loader::PackedFile& file) {
  TANDEM_RETURN_IF_ERROR(CheckEmbedding(config, checkpoint, file));
  return ForEachModule(
      config, checkpoint, weights, backend,
      [&](const Module& module, const WeightFormat& format, int64_t leaf_size) -> absl::Status {
        const kernels::LinearSpec whole = {
            .dtype = format.dtype,
            .quant = format.quant,
            .rows = module.rows,
            .global_columns = module.columns,
            .leaf_size = leaf_size,
            .leaves = {0, (module.columns + leaf_size - 1) / leaf_size}};
        const bool quantized = SchemeOf(config, checkpoint, module) != nullptr;
        const std::string name = quantized ? module.name : module.name + ".weight";
        const loader::PackedFile::Entry* matrix = file.Find(name, PackedDescription(whole));
        const uint64_t found = matrix == nullptr ? 0 : matrix->bytes;
        if (found == backend.PackedBytes(whole)) return absl::OkStatus();
        return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", name, ": found ", found,
                                                       " bytes, expected ",
                                                       backend.PackedBytes(whole), ""));
      });
}

}  // namespace tandem::model
