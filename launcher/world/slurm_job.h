// When the Slurm job that this process is in ends.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tandem::launcher {

// Seconds in what squeue prints for the time that a job has left, "1-02:03:04" or "59:30"; nullopt
// for anything else, such as UNLIMITED.
std::optional<int64_t> SlurmSecondsLeft(const std::string& text);

// In a Slurm job whose environment lacks SLURM_JOB_END_TIME, as Slurm 22.05 leaves it, asks squeue
// and sets it (seconds since 1970), or says on stderr that it could not. Before threads and MPI.
void LearnSlurmEnd();

}  // namespace tandem::launcher
