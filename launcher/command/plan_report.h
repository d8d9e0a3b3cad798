// A plan as people, programs and pictures have it. Pure functions.
#pragma once

#include <span>
#include <string>

#include "runtime/loader/model_config.h"
#include "runtime/plan/planner.h"

namespace tandem::launcher {

// Lines of text, one for each run of ranks with equal numbers; sizes in GiB.
std::string PlanTable(const loader::ModelConfig& config, const plan::PlanRequest& request,
                      std::span<const plan::FormatPlan> plans,
                      const plan::Recommendation& recommendation);

// [{"format", "tp", "ranks": [{"weights", "kv", "workspace", "communication", "free"}], "fits",
// "decode_tokens_per_s"}], bytes; free is below zero where memory lacks.
std::string PlanJson(std::span<const plan::FormatPlan> plans);

// An SVG picture: a bar for each rank, stacked by purpose, with its device's memory as a frame.
std::string PlanPicture(std::span<const plan::FormatPlan> plans,
                        const plan::Recommendation& recommendation);

}  // namespace tandem::launcher
