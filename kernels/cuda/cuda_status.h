// Errors of the CUDA runtime as statuses.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::kernels::cuda {

// RESOURCE_EXHAUSTED for memory, else `code`: "GPU: what: the runtime's words". The runtime
// forgets the error.
inline absl::Status CudaStatus(cudaError_t error, std::string_view what,
                               absl::StatusCode code = absl::StatusCode::kInternal) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat("GPU: ", std::string(what), ": ", cudaGetErrorString(error));
  cudaGetLastError();
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                            : absl::Status(code, message);
}

// The first error of operations that return none.
class CudaErrors {
 public:
  void Keep(const absl::Status& status) {
    if (first_.ok()) first_ = status;
  }
  void Check(cudaError_t error, std::string_view what) {
    if (error != cudaSuccess) Keep(CudaStatus(error, what));
  }
  const absl::Status& first() const { return first_; }

 private:
  absl::Status first_;
};

}  // namespace tandem::kernels::cuda
