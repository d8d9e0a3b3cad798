// kernels/cuda/device/cuda_async.h on the emulation: copies are done when they are waited for,
// as late as a GPU may, or at once, as early.
#pragma once

#include <cuda_device.h>

namespace tandem::kernels::cuda {

inline void StartCopy(void* shared, const void* from) { emulation::StartCopy(shared, from); }
inline void WaitCopies() { emulation::WaitCopies(); }

}  // namespace tandem::kernels::cuda
