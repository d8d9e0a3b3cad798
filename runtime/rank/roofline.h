// How far a job is from what the machine allows (the roofline model): the machine's ceilings,
// measured on all ranks, and the bytes and operations of a step, counted. "Collective": all ranks
// call it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cpu/probe.h"
#include "runtime/plan/ceilings.h"
#include "runtime/plan/step_work.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::rank {

// The arithmetic of the products of a model's layers.
kernels::DotType DotTypeOf(const kernels::LinearSpec& spec);

// A probe with the threads of the runtime's backend, or of its GPU.
absl::StatusOr<std::unique_ptr<kernels::MachineProbe>> MakeProbe(const RankRuntime& runtime,
                                                                 const std::string& isa);

// Collective: all ranks at once, each with its threads.
absl::StatusOr<plan::Ceilings> MeasureCeilings(RankRuntime& runtime, kernels::MachineProbe& probe);

// Collective: bytes and operations of all ranks together.
absl::StatusOr<plan::ModelWork> WorkOf(RankRuntime& runtime);

// Collective: seconds that the counted steps would take at the ceilings, which are measured now; 0
// where there is no memory for that. `done` is rank 0's, null elsewhere.
absl::StatusOr<double> SecondsAtCeilings(RankRuntime& runtime, const std::string& isa,
                                         const plan::CountingExecutor* done);

}  // namespace tandem::rank
