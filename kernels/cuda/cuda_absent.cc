// Where a build has no CUDA.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_probe.h"

namespace tandem::kernels {
namespace {

absl::Status Absent() {
  return absl::UnavailableError(
      "device cuda: this program was built without CUDA; build it with -DTANDEM_CUDA=ON (needs "
      "the CUDA toolkit), or use --device cpu");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> MakeCudaBackend(const CudaOptions&) {
  return Absent();
}
absl::StatusOr<std::unique_ptr<MachineProbe>> MakeCudaProbe(int, size_t) { return Absent(); }

}  // namespace tandem::kernels
