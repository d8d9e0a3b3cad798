// The ceilings of a GPU: copies inside its memory (bytes read and written both count), copies to
// it from pinned memory, and large products of random values by its library: zeros would take
// less power, and a GPU that has power to spare is faster.
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
