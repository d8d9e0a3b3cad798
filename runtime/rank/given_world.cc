#include "runtime/rank/given_world.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tandem::rank {
namespace {

std::optional<int> Number(const char* text) {
  int value = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &value) || value < 1) return std::nullopt;
  return value;
}

}  // namespace

absl::StatusOr<std::optional<int>> FindWorld(const GetEnv& get_env) {
  // Open MPI's mpirun.
  if (const std::optional<int> size = Number(get_env("OMPI_COMM_WORLD_SIZE"))) return size;
  // srun sets the step's variables; with --mpi=pmix it sets PMIX_RANK too.
  const std::optional<int> tasks = Number(get_env("SLURM_STEP_NUM_TASKS"));
  const bool step = get_env("SLURM_STEP_ID") != nullptr && get_env("SLURM_PROCID") != nullptr;
  if (get_env("PMIX_RANK") != nullptr) {
    if (tasks.has_value()) return tasks;
    return std::optional<int>(Number(get_env("SLURM_NTASKS")).value_or(1));
  }
  if (step && tasks.value_or(1) > 1) {
    return absl::FailedPreconditionError(absl::StrCat(
        "started by srun with ", *tasks, " tasks but without PMIx: use srun --mpi=pmix"));
  }
  return std::optional<int>();
}

}  // namespace tandem::rank
