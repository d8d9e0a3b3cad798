// The queue of a GPU's backend, for communicators that work in its order.
#pragma once

#include "kernels/backend.h"

namespace tandem::kernels {

// The cudaStream_t on which a backend of MakeCudaBackend launches all it does; it lives as long as
// the backend. Of no other backend.
void* CudaStreamOf(const Backend& backend);

}  // namespace tandem::kernels
