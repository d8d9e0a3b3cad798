// Memory that a GPU's collectives need beside the backend's.
#pragma once

#include <driver_types.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/pinned_memory.h"
#include "kernels/device_memory.h"

namespace tandem::parallel {

// As kernels::cuda::CudaStatus, but UNAVAILABLE: another rank or GPU may be the cause.
absl::Status FromCuda(cudaError_t error, const char* what);

using kernels::cuda::AllocatePinned;

// Of the GPU, zeroed.
absl::StatusOr<kernels::Buffer> AllocateOnGpu(size_t bytes, cudaStream_t stream);

}  // namespace tandem::parallel
