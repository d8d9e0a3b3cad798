// The scalar specification of every operation: slow and plain. Kernel tests compare with it, and
// CPUs without fused multiply-adds use it.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace tandem::kernels {

std::unique_ptr<Backend> MakeRefBackend();

}  // namespace tandem::kernels
