#include "parallel/control_group.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {

absl::Status AgreeOnStatus(ControlGroup& group, const absl::Status& mine) {
  // The code in one byte, then the message; empty when OK.
  std::string packed;
  if (!mine.ok()) {
    packed.push_back(static_cast<char>(mine.code()));
    packed.append(mine.message().data(), mine.message().size());
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all, group.AllGatherBytes(packed));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const auto code = static_cast<absl::StatusCode>(all[rank][0]);
    const std::string message = all[rank].substr(1);
    // Rank 0 sees what every rank sees; an error of another rank needs that rank's number.
    return absl::Status(code, rank > 0 ? absl::StrCat("rank ", rank, ": ", message) : message);
  }
  return absl::OkStatus();
}

}  // namespace tandem::parallel
