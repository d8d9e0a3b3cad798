// Pinned memory of the host: copies between it and a GPU need no wait, and the GPU sees it at the
// same address.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/device_memory.h"

namespace tandem::kernels::cuda {

// Not zeroed. RESOURCE_EXHAUSTED where the system pins no more memory.
inline absl::StatusOr<Buffer> AllocatePinned(size_t bytes) {
  void* data = nullptr;
  if (cudaHostAlloc(&data, bytes, cudaHostAllocPortable) != cudaSuccess) {
    cudaGetLastError();
    return absl::ResourceExhaustedError(
        absl::StrCat("GPU: the system pins no ", bytes, " bytes of memory; see ulimit -l"));
  }
  return Buffer(data, bytes, [](void* memory, size_t) { cudaFreeHost(memory); });
}

}  // namespace tandem::kernels::cuda
