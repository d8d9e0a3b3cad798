#include "parallel/staged_communicator.h"

#include <algorithm>

#include "kernels/base/status_macros.h"

namespace tandem::parallel {

absl::Status StagedCommunicator::AllReduceTree(const TreeLayout& layout, const float* mine,
                                               int64_t count, float* out) {
  const int64_t values = layout.node_count(rank()) * count;
  mine_.resize(std::max<size_t>(mine_.size(), values));
  sum_.resize(std::max<size_t>(sum_.size(), count));
  TANDEM_RETURN_IF_ERROR(ToHost(mine, values, mine_.data()));
  TANDEM_RETURN_IF_ERROR(inner_.AllReduceTree(layout, mine_.data(), count, sum_.data()));
  backend_.CopyFromHost(out, sum_.data(), count * sizeof(float));
  return absl::OkStatus();
}

absl::Status StagedCommunicator::GatherColumns(const float* mine, int64_t rows,
                                               std::span<const int64_t> widths, float* out) {
  const int64_t count = rows * widths[rank()];
  if (size() == 1) return ToHost(mine, count, out);
  mine_.resize(std::max<size_t>(mine_.size(), count));
  TANDEM_RETURN_IF_ERROR(ToHost(mine, count, mine_.data()));
  return inner_.GatherColumns(mine_.data(), rows, widths, out);
}

absl::Status StagedCommunicator::ToHost(const float* from, int64_t count, float* to) {
  if (count > 0) {
    backend_.CopyToHost(to, from, count * sizeof(float));
  } else {
    backend_.Synchronize();
  }
  return backend_.status();
}

}  // namespace tandem::parallel
