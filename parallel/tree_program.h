// A layout's sum tree in the form that GPU kernels take.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/cuda/collective.h"
#include "parallel/tree_layout.h"

namespace tandem::parallel {

// UNIMPLEMENTED for more ranks or partial sums than a kernel takes.
absl::StatusOr<kernels::cuda::TreeProgram> MakeTreeProgram(const TreeLayout& layout);

}  // namespace tandem::parallel
