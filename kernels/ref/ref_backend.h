// The scalar specification of every operation: slow, plain, the oracle of all
// kernel tests, and the fallback for CPUs without fused multiply-adds.
#pragma once

#include <memory>

#include "kernels/backend.h"

namespace tandem::kernels {

std::unique_ptr<Backend> MakeRefBackend();

}  // namespace tandem::kernels
