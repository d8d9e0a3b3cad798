// The runtime's last error of the calling thread, which stays until it is asked for.
#pragma once

#include <driver_types.h>

namespace tandem::emulation {

// Keeps the error as the last one, and returns it.
cudaError_t Failed(cudaError_t error);

}  // namespace tandem::emulation
