#include "parallel/cuda_memory.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {

absl::Status FromCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const auto message = absl::StrCat(what, ": ", cudaGetErrorString(error));
  cudaGetLastError();  // it is told here, and not of what comes next
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                            : absl::UnavailableError(message);
}

absl::StatusOr<kernels::Buffer> AllocatePinned(size_t bytes) {
  void* data = nullptr;
  TANDEM_RETURN_IF_ERROR(FromCuda(cudaHostAlloc(&data, bytes, cudaHostAllocPortable),
                                  "pinned memory for collectives"));
  return kernels::Buffer(data, bytes, [](void* memory, size_t) { cudaFreeHost(memory); });
}

absl::StatusOr<kernels::Buffer> AllocateOnGpu(size_t bytes, cudaStream_t stream) {
  void* data = nullptr;
  TANDEM_RETURN_IF_ERROR(FromCuda(cudaMalloc(&data, bytes), "memory of the GPU for collectives"));
  kernels::Buffer buffer(data, bytes, [](void* memory, size_t) { cudaFree(memory); });
  TANDEM_RETURN_IF_ERROR(
      FromCuda(cudaMemsetAsync(data, 0, bytes, stream), "memory of the GPU for collectives"));
  TANDEM_RETURN_IF_ERROR(
      FromCuda(cudaStreamSynchronize(stream), "memory of the GPU for collectives"));
  return buffer;
}

}  // namespace tandem::parallel
