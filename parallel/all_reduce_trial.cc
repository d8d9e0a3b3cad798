#include "parallel/all_reduce_trial.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {
namespace {

// Whole numbers, so that their sum is exact in any order; others in each round, so that what
// is left of the last one is noticed.
float ValueOf(int rank, int64_t i, int round) {
  return static_cast<float>((i * 7 + rank * 13 + round * 29) % 251 - 125);
}

// One round; the seconds.
absl::StatusOr<double> Round(const ControlGroup& control, int64_t count, int round, int repeats,
                             AllReduceRun run) {
  std::vector<float> mine(count), sum(count);
  for (int64_t i = 0; i < count; ++i) mine[i] = ValueOf(control.rank(), i, round);
  TANDEM_ASSIGN_OR_RETURN(const double seconds, run(mine, repeats, sum));
  for (int64_t i = 0; i < count; ++i) {
    float expected = 0;
    for (int r = 0; r < control.size(); ++r) expected += ValueOf(r, i, round);
    if (sum[i] != expected) {
      return absl::DataLossError(absl::StrCat("wrong sums: element ", i, " of ", count, " is ",
                                              sum[i], ", expected ", expected));
    }
  }
  return seconds;
}

}  // namespace

absl::StatusOr<AllReduceTrial> TryAllReduce(ControlGroup& control, std::string way, int64_t count,
                                            int repeats, AllReduceRun run) {
  AllReduceTrial trial = {.way = std::move(way), .count = count};
  const int size = control.size();
  for (const auto& [round, times] : {std::pair(1, 1), std::pair(2, repeats)}) {
    const absl::StatusOr<double> mine = Round(control, count, round, times, run);
    // One exchange of every rank's error or time. All ranks, this one too, use the times as they
    // were sent: with more digits, this rank alone might find another way faster.
    const std::string sent = mine.ok() ? absl::StrCat("+", *mine)
                                       : absl::StrCat(static_cast<int>(mine.status().code()), " ",
                                                      std::string(mine.status().message()));
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all, control.AllGatherBytes(sent));
    double seconds = 0;
    for (int r = 0; r < size && trial.status.ok(); ++r) {
      if (all[r][0] == '+') {
        seconds = std::max(seconds, std::stod(all[r].substr(1)));
      } else {
        const size_t end = all[r].find(' ');
        trial.status = absl::Status(static_cast<absl::StatusCode>(std::stoi(all[r].substr(0, end))),
                                    absl::StrCat("rank ", r, ": ", all[r].substr(end + 1)));
      }
    }
    if (!trial.status.ok()) return trial;
    trial.microseconds = seconds * 1e6 / times;
  }
  return trial;
}

absl::StatusOr<AllReduceTrial> TryCommunicator(ControlGroup& control, std::string way,
                                               int64_t count, int repeats, Communicator& tried) {
  const ReducePlan plan = tried.PlanReduce(TreeLayout::OfRanks(tried.size()));
  return TryAllReduce(
      control, std::move(way), count, repeats,
      [&](const std::vector<float>& mine, int times,
          std::vector<float>& sum) -> absl::StatusOr<double> {
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < times; ++i) {
          TANDEM_RETURN_IF_ERROR(tried.AllReduce(plan, mine.data(), count, sum.data()));
        }
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      });
}

}  // namespace tandem::parallel
