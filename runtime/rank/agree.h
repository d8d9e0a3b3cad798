// The fourth step of a rank: all ranks must have the same build, model, instruction set and
// options, or their numbers would not fit together.
#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "parallel/control_group.h"
#include "runtime/rank/open_model.h"
#include "runtime/rank/options.h"

namespace tandem::rank {

// What must be the same on all ranks, one line for each thing: "instruction set AVX2".
std::string SetupOf(const RankOptions& options, const OpenedModel& opened);

// OK where all setups, by rank, are the same. Otherwise FAILED_PRECONDITION names the first rank
// that differs from rank 0, and each line that differs.
absl::Status CompareSetups(std::span<const std::string> setups);

// Collective: compares the setups of all ranks.
absl::Status AgreeOnSetup(parallel::ControlGroup& group, const RankOptions& options,
                          const OpenedModel& opened);

}  // namespace tandem::rank
