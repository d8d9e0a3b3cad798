// Which of the plans to take.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "runtime/plan/planner.h"

namespace tandem::plan {

// A larger TP degree must make decoding faster by this factor to be worth its devices.
inline constexpr double kWorthwhileGain = 1.1;

struct Recommendation {
  std::optional<size_t> choice;  // index of a plan; nullopt: nothing fits
  std::string reason;            // one or two sentences
};
// The most precise format that fits and is not more precise than the stored one. FP8 is recommended
// only where the model is stored in it or nothing else is allowed: INT8 in groups of 32 loses less
// in as many bytes.
Recommendation Recommend(std::span<const FormatPlan> plans, const PlanRequest& request);

}  // namespace tandem::plan
