// A batch job over several replicas on this host: each is a world of its own, so that the loss of
// one leaves the others at work. This process has the files and hands out rows; it never touches
// MPI or a model's weights.
#pragma once

#include "absl/status/statusor.h"
#include "launcher/options.h"

namespace tandem::launcher {

// Where a replica's leader finds the coordinator; set for the replicas' processes.
inline constexpr char kCoordinatorVariable[] = "TANDEM_BATCH_COORDINATOR";

// The exit code. Starts `argv` again for each replica, with its share of the cores. The caller must
// not have started threads.
absl::StatusOr<int> RunReplicas(const BatchOptions& options, char** argv);

}  // namespace tandem::launcher
