// Where a build has no CUDA.
#include "kernels/cuda/cuda_backend.h"

namespace tandem::kernels {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaOptions&) {
  return absl::UnavailableError(
      "device cuda: this program was built without CUDA; build it with -DTANDEM_CUDA=ON (needs "
      "the CUDA toolkit), or use --device cpu");
}

}  // namespace tandem::kernels
