// The third step of a rank: the model's files are opened and checked, and the backend is made.
// Nothing large is read or allocated yet.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/generation_config.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/model_folder.h"
#include "runtime/model/weight_format.h"
#include "runtime/rank/options.h"
#include "runtime/rank/place.h"

namespace tandem::rank {

struct OpenedModel {
  loader::ModelFolder folder;
  loader::ModelConfig config;
  loader::GenerationConfig generation;
  std::unique_ptr<loader::Checkpoint> checkpoint;  // until the decoder takes it
  model::WeightRequests weights;                   // conversions while loading
  kernels::KvDType kv_dtype = kernels::KvDType::kF32;
  std::unique_ptr<kernels::Backend> backend;
  // Of the layers' matrices and of the head, as this rank will hold them: "INT4, groups of 128".
  std::string weight_format, head_format;
};

// Not collective: ranks agree on the status afterwards. Names the file or the option that is wrong.
absl::StatusOr<OpenedModel> OpenModel(const RankOptions& options, const Placement& placed);

// Logs what is unusual about the model, for rank 0.
void LogModelWarnings(const OpenedModel& opened);

}  // namespace tandem::rank
