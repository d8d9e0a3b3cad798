// Page-aligned, zeroed host memory that goes back to the system when freed.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace tandem::kernels {

// RESOURCE_EXHAUSTED when the system refuses. Asks for huge pages from 2 MiB on.
absl::StatusOr<Buffer> AllocateHost(size_t bytes);

}  // namespace tandem::kernels
