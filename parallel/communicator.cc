#include "parallel/communicator.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {

absl::Status AllReduceAddRmsNorm(Communicator& communicator, kernels::Backend& backend,
                                 ReducePlan plan, const float* mine,
                                 const kernels::ResidualNorm& norm, float* sum) {
  if (communicator.size() > 1 || plan.nodes == 0) {
    TANDEM_ASSIGN_OR_RETURN(const bool fused,
                            communicator.FusedAllReduceAddRmsNorm(plan, mine, norm));
    if (fused) return absl::OkStatus();
    TANDEM_RETURN_IF_ERROR(communicator.AllReduce(plan, mine, norm.tokens * norm.hidden, sum));
    mine = sum;
  }
  backend.AddRmsNorm(mine, norm.delta_bias, norm.residual, norm.weight, norm.epsilon, norm.tokens,
                     norm.hidden, norm.out);
  return absl::OkStatus();
}

ReducePlan SelfCommunicator::PlanReduce(const TreeLayout& layout) {
  TANDEM_CHECK(layout.nodes.size() <= 1);
  return {0, static_cast<int64_t>(layout.nodes.size())};
}

absl::Status SelfCommunicator::AllReduce(ReducePlan plan, const float* mine, int64_t count,
                                         float* out) {
  if (plan.nodes == 0) {  // no leaves
    std::fill_n(out, count, 0.0f);
  } else {
    std::memcpy(out, mine, count * sizeof(float));
  }
  return absl::OkStatus();
}

absl::Status SelfCommunicator::GatherColumns(const float* mine, int64_t rows,
                                             std::span<const int64_t> widths, float* out) {
  TANDEM_CHECK(widths.size() == 1);
  std::memcpy(out, mine, rows * widths[0] * sizeof(float));
  return absl::OkStatus();
}

}  // namespace tandem::parallel
