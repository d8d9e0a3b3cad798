// Stands in for attention_x86.cc on other processors.
#include "kernels/cpu/attention.h"

namespace tandem::kernels::cpu {

void UseDotInstructions(DotInstructions, DotKernels&) {}

}  // namespace tandem::kernels::cpu
