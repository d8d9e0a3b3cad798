// Options of the load guard.
#pragma once

#include <utility>

#include "runtime/engine/load_guard.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

// Thresholds of the load guard (runtime/engine/load_guard.h): normal below the first value,
// action above the second.
struct LoadGuardLimits {
  std::pair<double, double> kv = {0.80, 0.95};             // 0 to 1
  std::pair<double, double> fragmentation = {0.15, 0.30};  // 0 to 1
  std::pair<double, double> latency = {0.5, 1.0};          // seconds
};

void AddLoadGuard(CLI::App* app, LoadGuardLimits* limits);
void AddLatencyWatch(CLI::App* app, LoadGuardLimits* limits);

engine::LoadGuardOptions LoadGuardOptionsOf(const LoadGuardLimits& limits);

}  // namespace tandem::launcher
