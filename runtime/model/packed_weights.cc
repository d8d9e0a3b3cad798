#include "runtime/model/packed_weights.h"

#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/linear.h"
#include "runtime/model/matrix_source.h"
#include "runtime/model/model_tensors.h"

namespace tandem::model {
namespace {

// All fields of a request: more files than needed are better than one too few.
std::string Describe(const WeightRequest& request) {
  return absl::StrCat(request.bits, " bits, groups ", request.group_size, ", ",
                      request.dtype ? std::string(kernels::DTypeName(*request.dtype)) : "stored");
}

}  // namespace

std::string PackedKey(const loader::Checkpoint& checkpoint, const WeightRequests& weights,
                      const kernels::Backend& backend) {
  std::string key = absl::StrCat(
      "model ", absl::Hex(checkpoint.Identity()), ", ", std::string(backend.packed_layout()),
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
  // Modules that ranks hold as one are packed one by one, in one format.
  const auto write = [&](std::initializer_list<const Module*> modules, const WeightRequest& request,
                         int64_t leaf_size) -> absl::Status {
    const WeightFormat format = HeldFormat(config, checkpoint, modules, request, backend);
    for (const Module* module : modules) {
      TANDEM_ASSIGN_OR_RETURN(StoredMatrix stored, TakeMatrix(config, checkpoint, *module));
      MatrixSource source(std::move(stored), format);
      TANDEM_ASSIGN_OR_RETURN(const auto weight, parallel::PackWhole(backend, source, leaf_size));
      TANDEM_RETURN_IF_ERROR(
          writer.Append(source.name(), PackedDescription(weight->spec), weight->packed()));
    }
    return absl::OkStatus();
  };
  const int64_t column_leaf = parallel::kColumnLeafSize;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerModules m = ModulesOf(config, i);
    TANDEM_RETURN_IF_ERROR(write({&m.q, &m.k, &m.v}, weights.body, column_leaf));
    TANDEM_RETURN_IF_ERROR(write({&m.gate, &m.up}, weights.body, column_leaf));
    TANDEM_RETURN_IF_ERROR(write({&m.o}, weights.body, config.head_dim));
    TANDEM_RETURN_IF_ERROR(
        write({&m.down}, weights.body, parallel::FfnLeafSize(config.intermediate_size)));
  }
  const Module head = HeadModule(config);
  return write({&head}, weights.head, column_leaf);
}

}  // namespace tandem::model
