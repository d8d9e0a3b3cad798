// What keeps a world from outliving its launcher: each process asks the kernel to kill it when its
// parent dies. The chain is launcher -> mpirun -> ranks.
#pragma once

#include "absl/status/status.h"

namespace tandem::rank {

// The pid that a rank of ours must have as its parent; set by RunWorld.
inline constexpr char kParentVariable[] = "TANDEM_PARENT_PID";

// How many worlds RunWorld has started before this one; set by it.
inline constexpr char kRestartsVariable[] = "TANDEM_RESTARTS";

// How PMIx keeps what ranks tell each other; set by RunWorld where the user has not.
inline constexpr char kDataStoreVariable[] = "PMIX_MCA_gds";

// True in a process that RunWorld started, directly or through mpirun.
bool StartedByLauncher();

// In a rank, first thing: SIGKILL when the parent dies. UNAVAILABLE if it is dead already. Does
// nothing in a process that the launcher did not start.
absl::Status DieWithParent();

}  // namespace tandem::rank
