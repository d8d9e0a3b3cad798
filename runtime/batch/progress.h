// The progress of a batch job on stderr: a bar on a terminal, otherwise a line at intervals. And
// the JSON summary at its end.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "runtime/batch/coordinator.h"

namespace tandem::batch {

// Columns of the terminal on which a bar may be drawn, stderr's or the launcher's; 0: no terminal.
// The launcher passes its own terminal's on to its ranks, whose stderr it prints.
int BarColumns();
void PassBarColumns();

// Prints a line on stderr, above the bar if there is one.
void PrintLine(const std::string& line);

// The bar and its figures, shorter than the terminal is wide. `seconds`: since this process began
// to compute rows.
std::string BarLine(const BatchCounts& counts, double seconds, int columns);
// "12 of 40 rows, 1 failed, 830.5 tok/s, 1m20s left", at the pace of those `seconds`.
std::string Figures(const BatchCounts& counts, double seconds);

class BatchProgress {
 public:
  // `interval`: seconds between two lines where there is no bar. `coordinator` outlives this.
  BatchProgress(double interval, const BatchCoordinator& coordinator);

  // Prints to stderr when it is time.
  void Update();
  // Clears the bar, and stops the time.
  void End();
  // Since the start, up to End.
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  const BatchCoordinator& coordinator_;
  const int columns_;
  const Clock::duration interval_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_;
  std::optional<Clock::time_point> end_;
  bool drawn_ = false;
};

struct BatchSummary {
  BatchCounts counts;
  double seconds = 0;  // of computing rows, without loading
  int replicas = 1;
  int replicas_dead = 0;
  double roofline_fraction =
      0;                 // time of the steps at the machine's ceilings / seconds; 0: unknown
  bool stopped = false;  // before all rows were finished
};
// One line of JSON.
std::string SummaryJson(const BatchSummary& summary);

}  // namespace tandem::batch
