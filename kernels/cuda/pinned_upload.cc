#include "kernels/cuda/pinned_upload.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/pinned_memory.h"

namespace tandem::kernels::cuda {

PinnedUpload::~PinnedUpload() {
  for (Slot& slot : slots_) {
    if (slot.copied != nullptr) {
      cudaEventSynchronize(slot.copied);
      cudaEventDestroy(slot.copied);
    }
  }
}

absl::Status PinnedUpload::Create() {
  for (Slot& slot : slots_) {
    TANDEM_ASSIGN_OR_RETURN(slot.memory, AllocatePinned(kBytes));
    TANDEM_RETURN_IF_ERROR(
        CudaStatus(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming), "an event"));
  }
  return absl::OkStatus();
}

std::byte* PinnedUpload::Acquire() {
  current_ ^= 1;
  cudaEventSynchronize(slots_[current_].copied);
  return slots_[current_].memory.as<std::byte>();
}

cudaError_t PinnedUpload::Submit(void* dst, size_t bytes) {
  const Slot& slot = slots_[current_];
  const cudaError_t error =
      cudaMemcpyAsync(dst, slot.memory.data(), bytes, cudaMemcpyHostToDevice, stream_);
  if (error != cudaSuccess) return error;
  return cudaEventRecord(slot.copied, stream_);
}

}  // namespace tandem::kernels::cuda
