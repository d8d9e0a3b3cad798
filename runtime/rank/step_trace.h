// `--trace FILE`: what each rank did and when, in the JSON that Perfetto and chrome://tracing open.
// Each rank is a process there, each step a slice with its parts inside, all on rank 0's clock.
//
// Each rank keeps its last slices in memory. Rank 0 gathers them at the end and writes the file; a
// command that fails writes none.
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

// traces[r] is rank r's. Time 0 is the first slice of all ranks.
void WriteTraceJson(std::span<const RankTrace> traces, std::ostream& out);

class StepTrace {
 public:
  // Collective. Measures the clocks and makes sure that rank 0 can write `file`.
  static absl::StatusOr<std::unique_ptr<StepTrace>> Start(parallel::ControlGroup& group,
                                                          const std::string& file);

  parallel::StepTimer* timer() { return &timer_; }

  // Collective, after the last step.
  absl::Status Write(parallel::ControlGroup& group);

 private:
  explicit StepTrace(const std::string& file);

  const std::string file_;
  parallel::StepTimer timer_;
  std::vector<int64_t> clock_offsets_;
};

}  // namespace tandem::rank
