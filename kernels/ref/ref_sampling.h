// The scalar specification of kernels/sampling.h, on the host's memory.
#pragma once

#include "kernels/sampling.h"

namespace tandem::kernels {

const SamplingOps& RefSampling();

}  // namespace tandem::kernels
