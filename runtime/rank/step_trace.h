// `--trace FILE`: what every rank did when, in the JSON that Perfetto and chrome://tracing open.
// One process a rank, steps as slices with their parts inside, all on rank 0's clock.
//
// Each rank keeps its last slices in memory; rank 0 gathers and writes them when the run has ended
// well.
#pragma once

#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "parallel/step_timer.h"

namespace tandem::rank {

struct RankTrace {
  std::string host;
  int64_t clock_offset_ns = 0;  // this rank's clock less rank 0's
  std::vector<parallel::StepTimer::Slice> slices;
};

// traces[r] is rank r's. Times start at the first slice of all.
void WriteTraceJson(std::span<const RankTrace> traces, std::ostream& out);

class StepTrace {
 public:
  // Collective. Measures the clocks and makes sure that rank 0 can write `file`.
  static absl::StatusOr<std::unique_ptr<StepTrace>> Start(parallel::ControlGroup& communicator,
                                                          const std::string& file);

  parallel::StepTimer* timer() { return &timer_; }

  // Collective, after the last step.
  absl::Status Write(parallel::ControlGroup& communicator);

 private:
  explicit StepTrace(const std::string& file);

  const std::string file_;
  parallel::StepTimer timer_;
  std::vector<int64_t> clock_offsets_;
};

}  // namespace tandem::rank
