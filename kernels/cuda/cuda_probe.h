// The ceilings of a card: copies inside its memory (bytes read and written both count) and
// large products by its library.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/machine_probe.h"

namespace tandem::kernels {

// device as in CudaOptions. RESOURCE_EXHAUSTED where the card has no room for two buffers of
// buffer_bytes, UNAVAILABLE as MakeCudaBackend.
absl::StatusOr<std::unique_ptr<MachineProbe>> MakeCudaProbe(int device, size_t buffer_bytes);

}  // namespace tandem::kernels
