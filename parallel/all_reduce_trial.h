// Whether a way of adding up over ranks gives right sums, and how fast.
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
  double microseconds = 0;  // a call, on the rank that it takes longest
  absl::Status status;      // the same on all ranks; DATA_LOSS: sums are wrong
};

// Adds up `mine`, [count], `repeats` times, one after the other; `sum` is [count], the last
// one's. The seconds of all of them together.
using AllReduceRun = absl::FunctionRef<absl::StatusOr<double>(
    const TreeLayout& layout, const std::vector<float>& mine, int repeats,
    std::vector<float>& sum)>;

// Tries `run` on all ranks at once. `host` is for what they tell each other of it, and must not
// depend on what is tried: where that fails there is no trial, but its error.
absl::StatusOr<AllReduceTrial> TryAllReduce(Communicator& host, std::string way, int64_t count,
                                            int repeats, AllReduceRun run);

// The same of a communicator of the host's memory.
absl::StatusOr<AllReduceTrial> TryCommunicator(Communicator& host, std::string way, int64_t count,
                                               int repeats, Communicator& tried);

}  // namespace tandem::parallel
