// Stands in for linear_x86.cc on other processors.
#include "kernels/cpu/linear_kernels.h"

namespace tandem::kernels::cpu {

DotInstructions SupportedDotInstructions() { return {}; }
bool NeedsSoftwarePrefetch() { return false; }
void UseDotInstructions(DotInstructions, PanelKernels&) {}

}  // namespace tandem::kernels::cpu
