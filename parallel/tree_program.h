// A layout's sum tree as kernels of GPUs take it.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/cuda/collective.h"
#include "parallel/tree_layout.h"

namespace tandem::parallel {

// UNIMPLEMENTED where ranks or partial sums are more than a kernel takes.
absl::StatusOr<kernels::cuda::TreeProgram> MakeTreeProgram(const TreeLayout& layout);

}  // namespace tandem::parallel
