// How a batch job is doing: a bar on a terminal, else a line every 30 s; a JSON summary at the end.
#pragma once

#include <chrono>
#include <string>

#include "runtime/server/batch_coordinator.h"

namespace tandem::launcher {

// Set by the launcher for ranks whose stderr ends in a terminal.
inline constexpr char kBarVariable[] = "TANDEM_PROGRESS_BAR";

// True where stderr is a terminal that can draw, or the launcher's is.
bool DrawsBar();

class BatchProgress {
 public:
  explicit BatchProgress(bool bar) : bar_(bar) {}

  // To stderr, when it is time.
  void Update(const server::BatchCounts& counts);
  // Ends the bar's line.
  void End();
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  const bool bar_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_ = start_;
  bool drawn_ = false;
};

struct BatchSummary {
  server::BatchCounts counts;
  double seconds = 0;  // of running, without loading
  int replicas = 1;
  int replicas_lost = 0;
  double roofline_fraction = 0;  // what the steps take at the machine's ceilings, of `seconds`; 0:
                                 // not known
  bool stopped = false;          // before all rows were over
};
// One line of JSON.
std::string SummaryJson(const BatchSummary& summary);

}  // namespace tandem::launcher
