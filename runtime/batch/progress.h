// How a batch job is doing: a bar on a terminal, else a line now and then; a JSON summary at the
// end.
#pragma once

#include <chrono>
#include <string>

#include "runtime/batch/coordinator.h"

namespace tandem::batch {

// Columns of the terminal that a bar may be drawn on, stderr's or the launcher's; 0: none. The
// launcher passes its own on to its ranks, whose stderr ends there.
int BarColumns();
void PassBarOn();

// A line on stderr, above the bar where there may be one.
void TellLine(const std::string& line);

// The bar and its figures, no longer than the terminal is wide. `seconds`: since this run began.
std::string BarLine(const BatchCounts& counts, double seconds, int columns);
// "12 of 40 rows, 1 failed, 830.5 tok/s, 1m20s left": what is left at the pace of this run.
std::string Figures(const BatchCounts& counts, double seconds);

class BatchProgress {
 public:
  // `interval`: seconds between two lines where there is no bar.
  explicit BatchProgress(double interval);

  // To stderr, when it is time.
  void Update(const BatchCounts& counts);
  // Ends the bar's line.
  void End();
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  const int columns_;
  const Clock::duration interval_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_;
  bool drawn_ = false;
};

struct BatchSummary {
  BatchCounts counts;
  double seconds = 0;  // of running, without loading
  int replicas = 1;
  int replicas_lost = 0;
  double roofline_fraction = 0;  // what the steps take at the machine's ceilings, of `seconds`; 0:
                                 // not known
  bool stopped = false;          // before all rows were over
};
// One line of JSON.
std::string SummaryJson(const BatchSummary& summary);

}  // namespace tandem::batch
