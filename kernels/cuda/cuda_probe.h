// Measures a GPU's limits: copies inside its memory (bytes read and written both count), copies to
// it from pinned memory, and large products of random values by cuBLASLt. Zeros would take less
// power, and the GPU would be faster than with real values.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/machine_probe.h"

namespace tandem::kernels {

// device as in CudaOptions. RESOURCE_EXHAUSTED where the GPU has no room for two buffers of
// buffer_bytes, UNAVAILABLE as MakeCudaBackend.
absl::StatusOr<std::unique_ptr<MachineProbe>> MakeCudaProbe(int device, size_t buffer_bytes);

}  // namespace tandem::kernels
