#include "kernels/cuda/pinned_upload.h"

namespace tandem::kernels::cuda {

PinnedUpload::~PinnedUpload() {
  for (Slot& slot : slots_) {
    if (slot.copied != nullptr) {
      cudaEventSynchronize(slot.copied);
      cudaEventDestroy(slot.copied);
    }
    cudaFreeHost(slot.data);
  }
}

absl::Status PinnedUpload::Create() {
  for (Slot& slot : slots_) {
    if (cudaHostAlloc(&slot.data, kBytes, cudaHostAllocDefault) != cudaSuccess ||
        cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming) != cudaSuccess) {
      cudaGetLastError();
      return absl::ResourceExhaustedError(
          "the system has no memory to pin for copies to the GPU: see ulimit -l");
    }
  }
  return absl::OkStatus();
}

std::byte* PinnedUpload::Acquire() {
  current_ ^= 1;
  cudaEventSynchronize(slots_[current_].copied);
  return static_cast<std::byte*>(slots_[current_].data);
}

cudaError_t PinnedUpload::Submit(void* dst, size_t bytes) {
  const Slot& slot = slots_[current_];
  const cudaError_t error = cudaMemcpyAsync(dst, slot.data, bytes, cudaMemcpyHostToDevice, stream_);
  if (error != cudaSuccess) return error;
  return cudaEventRecord(slot.copied, stream_);
}

}  // namespace tandem::kernels::cuda
