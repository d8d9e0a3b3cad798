// Keeps a world from outliving its launcher: each process of the chain launcher -> mpirun -> ranks
// asks the kernel to kill it when its parent dies.
#pragma once

#include "absl/status/status.h"

namespace tandem::rank {

// The pid that a rank's parent must have; set by RunWorld.
inline constexpr char kParentVariable[] = "TANDEM_PARENT_PID";

// How many worlds RunWorld has started before this one; set by RunWorld.
inline constexpr char kRestartsVariable[] = "TANDEM_RESTARTS";

// Where PMIx stores the data that ranks publish; set by RunWorld unless the user has.
inline constexpr char kDataStoreVariable[] = "PMIX_MCA_gds";

// True in a process that RunWorld started, directly or through mpirun.
bool StartedByLauncher();

// The first call in a rank: from now on SIGKILL ends it when its parent dies. UNAVAILABLE if the
// parent is dead already. Does nothing in a process that the launcher did not start.
absl::Status DieWithParent();

}  // namespace tandem::rank
