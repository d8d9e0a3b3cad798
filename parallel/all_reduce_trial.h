// Tests and measures one way to do an all-reduce.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace tandem::parallel {

struct AllReduceTrial {
  std::string way;
  int64_t count = 0;        // floats of the sum
  double microseconds = 0;  // of one call, on the slowest rank
  absl::Status status;      // the same on all ranks; DATA_LOSS: sums are wrong
};

// Adds up `mine`, [count], over TreeLayout::OfRanks, `repeats` times one after the other; `sum`,
// [count], is the last sum. Returns the seconds of all of them together.
using AllReduceRun = absl::FunctionRef<absl::StatusOr<double>(
    const std::vector<float>& mine, int repeats, std::vector<float>& sum)>;

// Tries `run` on all ranks at once. Ranks exchange their results over `control`, which must not
// depend on what is tried: its errors are returned, errors of `run` are the trial's status.
absl::StatusOr<AllReduceTrial> TryAllReduce(ControlGroup& control, std::string way, int64_t count,
                                            int repeats, AllReduceRun run);

// The same for a communicator of host memory.
absl::StatusOr<AllReduceTrial> TryCommunicator(ControlGroup& control, std::string way,
                                               int64_t count, int repeats, Communicator& tried);

}  // namespace tandem::parallel
