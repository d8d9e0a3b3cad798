// Waiting for a stream of the GPU with a deadline.
#pragma once

#include <driver_types.h>

#include <chrono>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace tandem::parallel {

// Waits until everything that is queued is done, `poll` returns an error, or the timeout (zero:
// none) is over: DEADLINE_EXCEEDED. `what` starts the message of an error.
absl::Status AwaitStream(cudaStream_t stream, std::chrono::milliseconds timeout, const char* what,
                         absl::FunctionRef<absl::Status()> poll);

}  // namespace tandem::parallel
