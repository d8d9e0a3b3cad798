// Stands in for linear_x86.cc on other processors.
#include "kernels/cpu/linear_kernels.h"

namespace tandem::kernels::cpu {

DotInstructions SupportedDotInstructions() { return {}; }
bool FetchesTooLittle() { return false; }
void UseDotInstructions(DotInstructions, LinearKernels&) {}

}  // namespace tandem::kernels::cpu
