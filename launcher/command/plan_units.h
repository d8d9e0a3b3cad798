// What the reports of a plan share: their unit of memory, and whether the devices are GPUs.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/plan/planner.h"

namespace tandem::launcher {

struct MemoryUnit {
  const char* name;
  double bytes;
  double Of(int64_t size) const { return static_cast<double>(size) / bytes; }
};

// GiB, or MiB where all devices are smaller than 1 GiB.
inline MemoryUnit UnitFor(std::span<const plan::FormatPlan> plans) {
  for (const plan::FormatPlan& plan : plans) {
    for (const plan::RankPlan& rank : plan.ranks) {
      if (rank.device >= 1 << 30) return {"GiB", 1 << 30};
    }
  }
  return {"MiB", 1 << 20};
}

inline bool OnGpus(std::span<const plan::FormatPlan> plans) {
  return !plans.empty() && plans[0].ranks[0].bytes.on_gpu;
}

}  // namespace tandem::launcher
