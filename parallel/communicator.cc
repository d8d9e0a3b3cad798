#include "parallel/communicator.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {

TreeLayout TreeLayout::Make(int64_t leaves, std::span<const kernels::LeafRange> owned) {
  TreeLayout layout;
  layout.leaves = leaves;
  layout.rank_begin.push_back(0);
  for (const kernels::LeafRange& range : owned) {
    for (const kernels::LeafRange& node : kernels::OwnedSubtrees(leaves, range)) {
      layout.nodes.push_back(node);
    }
    layout.rank_begin.push_back(static_cast<int64_t>(layout.nodes.size()));
  }
  return layout;
}

absl::Status SelfCommunicator::AllReduceTree(const TreeLayout& layout, const float* mine,
                                             int64_t count, float* out) {
  TANDEM_CHECK(layout.nodes.size() == 1);
  std::memcpy(out, mine, count * sizeof(float));
  return absl::OkStatus();
}

absl::Status SelfCommunicator::GatherColumns(const float* mine, int64_t rows,
                                             std::span<const int64_t> widths, float* out) {
  TANDEM_CHECK(widths.size() == 1);
  std::memcpy(out, mine, rows * widths[0] * sizeof(float));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SelfCommunicator::AllGatherBytes(const std::string& mine) {
  return std::vector<std::string>{mine};
}

absl::Status AgreeOnStatus(Communicator& communicator, const absl::Status& mine) {
  // The code in one byte, then the message; empty when OK.
  std::string packed;
  if (!mine.ok()) {
    packed.push_back(static_cast<char>(mine.code()));
    packed.append(mine.message().data(), mine.message().size());
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all, communicator.AllGatherBytes(packed));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const auto code = static_cast<absl::StatusCode>(all[rank][0]);
    const std::string message = all[rank].substr(1);
    // Rank 0 sees what every rank sees; another one's trouble needs its name.
    return absl::Status(code, rank > 0 ? absl::StrCat("rank ", rank, ": ", message) : message);
  }
  return absl::OkStatus();
}

}  // namespace tandem::parallel
