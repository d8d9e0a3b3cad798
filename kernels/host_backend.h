// What backends whose memory is the host's have in common.
#pragma once

#include <cstring>

#include "kernels/backend.h"
#include "kernels/host_memory.h"

namespace tandem::kernels {

class HostBackend : public Backend {
 public:
  absl::StatusOr<Buffer> Allocate(size_t bytes) final { return AllocateHost(bytes); }
  void CopyFromHost(void* dst, const void* src, size_t bytes) final { Copy(dst, src, bytes); }
  void CopyToHost(void* dst, const void* src, size_t bytes) final { Copy(dst, src, bytes); }
  void Copy(void* dst, const void* src, size_t bytes) final {
    if (bytes > 0) std::memcpy(dst, src, bytes);
  }
  void Synchronize() final {}

  void GatherRows(const float* x, const int32_t* indices, int64_t rows, int64_t columns,
                  float* out) final {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(out + r * columns, x + indices[r] * columns, columns * sizeof(float));
    }
  }
};

}  // namespace tandem::kernels
