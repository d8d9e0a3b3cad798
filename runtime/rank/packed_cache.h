// --packed-cache DIR: weights as the kernels read them, made once and loaded at every later start.
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
#include "runtime/rank/peer_watch.h"

namespace tandem::rank {

struct PackedCacheArgs {
  std::string directory;
  const loader::ModelFolder& model;
  const loader::ModelConfig& config;
  const loader::Checkpoint& checkpoint;  // not taken from
  const model::WeightRequests& weights;
  bool required = false;  // no file is an error
};

// Collective. The packed weights of the model on this rank's host; the host's first rank makes the
// file where it is missing or was made of something else. Null where that failed, with a warning,
// if it is not required: weights then come from the checkpoint. UNIMPLEMENTED
// where the backend keeps no packed weights.
absl::StatusOr<std::unique_ptr<loader::PackedFile>> OpenPackedWeights(
    const PackedCacheArgs& args, const std::vector<RankPlace>& places, kernels::Backend& backend,
    parallel::ControlGroup& communicator);

}  // namespace tandem::rank
