// When the Slurm job of this process ends.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tandem::launcher {

// The seconds in what squeue prints for the time that a job has left, such as "1-02:03:04" or
// "59:30". nullopt for anything else, such as UNLIMITED.
std::optional<int64_t> SlurmSecondsLeft(const std::string& text);

// If this is a Slurm job without SLURM_JOB_END_TIME in its environment, as with Slurm 22.05, asks
// squeue and sets the variable (seconds since 1970), or reports on stderr that it could not. Call
// it before threads and MPI.
void LearnSlurmEnd();

}  // namespace tandem::launcher
