// Processors whose 8-bit and bfloat16 dot products are not used. See probe_kernels.h.
#include "kernels/cpu/probe_kernels.h"

namespace tandem::kernels::cpu {

PeakLoop ByteDotLoop() { return {}; }
PeakLoop Bf16DotLoop() { return {}; }

}  // namespace tandem::kernels::cpu
