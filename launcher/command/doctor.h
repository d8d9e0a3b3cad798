// `tandem doctor`: whether the ways in which ranks add up work, and how fast they are.
#pragma once

#include "launcher/command/options.h"

namespace tandem::launcher {

// One rank of it; the exit code: 0 where every way that this machine has gives right sums,
// kExitUnavailable where one that should work does not.
int RunDoctorRank(const DoctorOptions& options);

}  // namespace tandem::launcher
