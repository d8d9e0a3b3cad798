// --packed-cache DIR: a file of weights in the layout that the kernels read. It is written once and
// loaded at every later start.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "parallel/control_group.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/model_folder.h"
#include "runtime/loader/packed_file.h"
#include "runtime/model/weight_format.h"
#include "runtime/rank/place.h"

namespace tandem::rank {

struct PackedCacheArgs {
  std::string directory;
  const loader::ModelFolder& model;
  const loader::ModelConfig& config;
  const loader::Checkpoint& checkpoint;
  const model::WeightRequests& weights;
  bool required = false;  // a missing file is an error
  bool remake = false;    // the file that is there is damaged
};

// Collective. Opens the packed weights of the model. Where the file is missing or belongs to
// another model or format, the first rank of each host writes it. Where that fails and the file is
// not required, logs a warning and returns null: weights then come from the checkpoint.
// UNIMPLEMENTED where the backend has no packed layout.
absl::StatusOr<std::unique_ptr<loader::PackedFile>> OpenPackedWeights(
    const PackedCacheArgs& args, const std::vector<RankPlace>& places, kernels::Backend& backend,
    parallel::ControlGroup& group);

}  // namespace tandem::rank
