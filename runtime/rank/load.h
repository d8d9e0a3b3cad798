// The last step of a rank's start: the weights are read, or mapped from a packed file.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/shm_segment.h"
#include "runtime/loader/packed_file.h"
#include "runtime/model/decoder.h"
#include "runtime/rank/size.h"
#include "runtime/rank/step_collectives.h"

namespace tandem::rank {

// Destroyed from the last member to the first. The steps' results that LoadModel gets outlive it.
struct LoadedModel {
  parallel::ShmSegment embedding;                     // of this host's ranks; empty: none
  std::unique_ptr<loader::PackedFile> packed;         // null: no layers stay in it
  std::unique_ptr<parallel::Communicator> gpu_steps;  // null: steps are on the host
  std::unique_ptr<model::Decoder> decoder;
};

// Collective; all ranks get the same error. Takes start.opened.checkpoint. Where the packed file
// turns out to be damaged, a line says what and where, the file is made again, and the model is
// loaded once more.
absl::StatusOr<LoadedModel> LoadModel(parallel::ControlGroup& group, const StartResults& start,
                                      const StepCollectives& collectives,
                                      model::DecoderOptions decoder);

// Compares what the decoder holds with the plan. A rank that takes more than it planned may run out
// of memory where the plan saw no danger: a large difference is logged as a warning.
void LogPlanDifferences(const plan::MemoryPlan& plan, const model::Decoder& decoder);

}  // namespace tandem::rank
