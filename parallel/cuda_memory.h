// Memory that a GPU's collectives need beside the backend's.
#pragma once

#include <driver_types.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace tandem::parallel {

// An error of the CUDA runtime as a Status, `what` in front of its text. The runtime forgets it.
absl::Status FromCuda(cudaError_t error, const char* what);

// Of the host, for copies that do not wait; the GPU sees it at the same address.
absl::StatusOr<kernels::Buffer> AllocatePinned(size_t bytes);

// Of the GPU, zeroed.
absl::StatusOr<kernels::Buffer> AllocateOnGpu(size_t bytes, cudaStream_t stream);

}  // namespace tandem::parallel
