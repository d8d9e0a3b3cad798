#include "runtime/plan/recommend.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::plan {
namespace {

std::string Names(const FormatPlan& plan) {
  const bool unpacked = plan.format == Format::kFp8 && !plan.ranks[0].bytes.on_gpu;
  return absl::StrCat(FormatName(plan.format), unpacked ? " (held in 16 bits on CPUs)" : "",
                      " at TP = ", plan.tp);
}

// The formats that may be recommended, the most precise first.
std::vector<Format> Candidates(const PlanRequest& request) {
  if (request.only) return {*request.only};
  if (request.stored == Format::kFp8) return {Format::kFp8, Format::kInt8, Format::kInt4};
  std::vector<Format> formats;
  for (const Format format : {Format::kFp32, Format::kBf16, Format::kInt8, Format::kInt4}) {
    if (format >= request.stored) formats.push_back(format);
  }
  return formats;
}

// The TP degree of a format to take: the fastest one that fits, unless the gain is too small.
struct Degree {
  const FormatPlan* chosen = nullptr;   // null: the format fits at no degree
  const FormatPlan* slower = nullptr;   // a smaller degree that fits too
  const FormatPlan* no_gain = nullptr;  // the next larger degree, rejected
};

Degree ChooseDegree(std::span<const FormatPlan> plans, Format format) {
  Degree degree;
  for (const FormatPlan& plan : plans) {
    if (plan.format != format || !plan.fits) continue;
    if (degree.chosen == nullptr) {
      degree.chosen = &plan;
    } else if (plan.decode_tokens_per_s >= kWorthwhileGain * degree.chosen->decode_tokens_per_s) {
      degree = {.chosen = &plan, .slower = degree.chosen};
    } else if (degree.no_gain == nullptr) {
      degree.no_gain = &plan;
    }
  }
  return degree;
}

// too_large: names of more precise formats that fit at no degree.
std::string ReasonFor(const Degree& degree, Format stored, const std::string& too_large) {
  const FormatPlan& chosen = *degree.chosen;
  std::string reason = absl::StrCat(Names(chosen), ": ");
  if (!too_large.empty()) {
    absl::StrAppend(&reason, "the most precise format that fits (", too_large, " at no degree)");
  } else if (chosen.format == stored) {
    absl::StrAppend(&reason, "the format that is stored fits, and a smaller one loses precision");
  } else {
    absl::StrAppend(&reason, "it fits");
  }
  if (degree.slower != nullptr) {
    absl::StrAppendFormat(&reason, "; %.2f times as fast as TP = %d",
                          chosen.decode_tokens_per_s / degree.slower->decode_tokens_per_s,
                          degree.slower->tp);
  } else if (chosen.tp > 1) {
    absl::StrAppend(&reason, "; fewer ranks do not hold it");
  }
  if (degree.no_gain != nullptr) {
    absl::StrAppendFormat(
        &reason,
        "; TP = %d is refused: the model predicts %.2f times the speed, under %.1f, so "
        "replicas use the devices better",
        degree.no_gain->tp, degree.no_gain->decode_tokens_per_s / chosen.decode_tokens_per_s,
        kWorthwhileGain);
  }
  return reason;
}

std::string ReasonForNothing(std::span<const FormatPlan> plans) {
  int64_t least = std::numeric_limits<int64_t>::max();
  const FormatPlan* nearest = nullptr;
  for (const FormatPlan& plan : plans) {
    int64_t missing = 0;
    for (const RankPlan& rank : plan.ranks) missing = std::max(missing, -rank.free());
    if (missing < least) {
      least = missing;
      nearest = &plan;
    }
  }
  if (nearest == nullptr) return "nothing was planned";
  return absl::StrFormat(
      "nothing fits: the nearest, %s, lacks %.2f GiB on its fullest rank; "
      "take a shorter context, fewer streams or more memory",
      Names(*nearest), static_cast<double>(least) / (1 << 30));
}

}  // namespace

Recommendation Recommend(std::span<const FormatPlan> plans, const PlanRequest& request) {
  std::string too_large;
  for (const Format format : Candidates(request)) {
    const Degree degree = ChooseDegree(plans, format);
    if (degree.chosen != nullptr) {
      return {static_cast<size_t>(degree.chosen - plans.data()),
              ReasonFor(degree, request.stored, too_large)};
    }
    absl::StrAppend(&too_large, too_large.empty() ? "" : ", ", FormatName(format));
  }
  return {std::nullopt, ReasonForNothing(plans)};
}

}  // namespace tandem::plan
