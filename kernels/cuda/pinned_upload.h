// Copies from the host to the GPU through two pinned buffers: the host fills one while the other is
// copied.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>

#include "absl/status/status.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/device_memory.h"

namespace tandem::kernels::cuda {

class PinnedUpload {
 public:
  static constexpr size_t kBytes = kCudaPinnedBytes / 2;  // of each buffer

  explicit PinnedUpload(cudaStream_t stream) : stream_(stream) {}
  PinnedUpload(const PinnedUpload&) = delete;
  ~PinnedUpload();

  // RESOURCE_EXHAUSTED where the system pins no more memory.
  absl::Status Create();

  // kBytes to fill, once their last copy is done.
  std::byte* Acquire();
  // Starts the copy of the buffer's first bytes to the GPU.
  cudaError_t Submit(void* dst, size_t bytes);

 private:
  struct Slot {
    Buffer memory;
    cudaEvent_t copied = nullptr;
  };
  cudaStream_t stream_;
  std::array<Slot, 2> slots_;
  size_t current_ = 0;
};

}  // namespace tandem::kernels::cuda
