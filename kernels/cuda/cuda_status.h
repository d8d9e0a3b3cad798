// Errors of the CUDA runtime as statuses.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::kernels::cuda {

// RESOURCE_EXHAUSTED for memory, else INTERNAL: "GPU: what: the runtime's words". The runtime
// forgets the error.
inline absl::Status CudaStatus(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat("GPU: ", std::string(what), ": ", cudaGetErrorString(error));
  cudaGetLastError();
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                            : absl::InternalError(message);
}

}  // namespace tandem::kernels::cuda
