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
absl::StatusOr<double> Round(const Communicator& host, const TreeLayout& layout, int64_t count,
                             int round, int repeats, AllReduceRun run) {
  std::vector<float> mine(count), sum(count);
  for (int64_t i = 0; i < count; ++i) mine[i] = ValueOf(host.rank(), i, round);
  TANDEM_ASSIGN_OR_RETURN(const double seconds, run(layout, mine, repeats, sum));
  for (int64_t i = 0; i < count; ++i) {
    float expected = 0;
    for (int r = 0; r < host.size(); ++r) expected += ValueOf(r, i, round);
    if (sum[i] != expected) {
      return absl::DataLossError(absl::StrCat("wrong sums: element ", i, " of ", count, " is ",
                                              sum[i], ", expected ", expected));
    }
  }
  return seconds;
}

}  // namespace

absl::StatusOr<AllReduceTrial> TryAllReduce(Communicator& host, std::string way, int64_t count,
                                            int repeats, AllReduceRun run) {
  AllReduceTrial trial = {.way = std::move(way), .count = count};
  const int size = host.size();
  const TreeLayout layout = TreeLayout::OfRanks(size);
  for (const auto& [round, times] : {std::pair(1, 1), std::pair(2, repeats)}) {
    const absl::StatusOr<double> mine = Round(host, layout, count, round, times, run);
    // Everybody's, in one go: an error, else the time. All ranks, this one too, go by what was
    // told: a time with other digits might be faster than another way's here alone.
    const std::string told = mine.ok() ? absl::StrCat("+", *mine)
                                       : absl::StrCat(static_cast<int>(mine.status().code()), " ",
                                                      std::string(mine.status().message()));
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all, host.AllGatherBytes(told));
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

absl::StatusOr<AllReduceTrial> TryCommunicator(Communicator& host, std::string way, int64_t count,
                                               int repeats, Communicator& tried) {
  return TryAllReduce(
      host, std::move(way), count, repeats,
      [&](const TreeLayout& layout, const std::vector<float>& mine, int times,
          std::vector<float>& sum) -> absl::StatusOr<double> {
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < times; ++i) {
          TANDEM_RETURN_IF_ERROR(tried.AllReduceTree(layout, mine.data(), count, sum.data()));
        }
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      });
}

}  // namespace tandem::parallel
