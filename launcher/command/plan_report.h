// What `tandem plan` prints: a table, JSON, a chart. Pure functions.
#pragma once

#include <span>
#include <string>

#include "runtime/loader/model_config.h"
#include "runtime/plan/planner.h"
#include "runtime/plan/recommend.h"

namespace tandem::launcher {

// Lines of text, one for each range of ranks with equal numbers; sizes in GiB, or MiB for small
// devices.
std::string PlanTable(const loader::ModelConfig& config, const plan::PlanRequest& request,
                      std::span<const plan::FormatPlan> plans,
                      const plan::Recommendation& recommendation);

// [{"format", "tp", "ranks": [{"weights", "kv", "workspace", "communication", "free"}], "fits",
// "decode_tokens_per_s"}], in bytes; free is negative where memory is short.
std::string PlanJson(std::span<const plan::FormatPlan> plans);

// An SVG document: a bar for each rank, stacked by purpose, with its device's memory as a frame.
std::string PlanChart(std::span<const plan::FormatPlan> plans,
                      const plan::Recommendation& recommendation);

}  // namespace tandem::launcher
