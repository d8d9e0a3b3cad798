#include "parallel/cuda_memory.h"

#include <cuda_runtime_api.h>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_status.h"

namespace tandem::parallel {

absl::Status FromCuda(cudaError_t error, const char* what) {
  return kernels::cuda::CudaStatus(error, what, absl::StatusCode::kUnavailable);
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
