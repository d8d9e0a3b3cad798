// A plan as people, programs and pictures have it. Pure functions.
#pragma once

#include <span>
#include <string>

#include "runtime/loader/model_config.h"
#include "runtime/plan/planner.h"

namespace tandem::launcher {

// Lines of text, one for each run of ranks with equal numbers; sizes in GiB.
std::string PlanTable(const loader::ModelConfig& config, const engine::PlanRequest& request,
                      std::span<const engine::FormatPlan> plans,
                      const engine::Recommendation& recommendation);

// [{"format", "tp", "ranks": [{"weights", "kv", "workspace", "communication", "free"}], "fits",
// "decode_tokens_per_s"}], bytes; free is below zero where memory lacks.
std::string PlanJson(std::span<const engine::FormatPlan> plans);

// An SVG picture: a bar for each rank, stacked by purpose, with its device's memory as a frame.
std::string PlanPicture(std::span<const engine::FormatPlan> plans,
                        const engine::Recommendation& recommendation);

}  // namespace tandem::launcher
