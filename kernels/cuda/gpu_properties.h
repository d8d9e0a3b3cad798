// What the backend's kernels choose by.
#pragma once

namespace tandem::kernels::cuda {

struct GpuProperties {
  int device = 0;
  bool has_bf16 = true;
  int multiprocessors = 1;
};

}  // namespace tandem::kernels::cuda
