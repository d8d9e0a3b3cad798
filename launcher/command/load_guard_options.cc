#include "launcher/command/load_guard_options.h"

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tandem::launcher {
namespace {

void AddPair(CLI::App* app, const char* name, std::pair<double, double>* pair, double most,
             const std::string& what) {
  app->add_option_function<std::vector<double>>(
         name,
         [name, pair](const std::vector<double>& values) {
           if (values.size() != 2 || values[0] > values[1]) {
             throw CLI::ValidationError(
                 name, absl::StrCat("found '", absl::StrJoin(values, ","),
                                    "', expected two numbers, the lower one first"));
           }
           *pair = {values[0], values[1]};
         },
         what)
      ->delimiter(',')
      ->check(CLI::Range(0.0, most))
      ->default_str(absl::StrCat(pair->first, ",", pair->second));
}

}  // namespace

void AddLoadGuard(CLI::App* app, LoadGuardLimits* limits) {
  AddPair(
      app, "--watch-kv", &limits->kv, 1,
      "KV cache usage, 0 to 1: above the second value the batch shrinks, below the first it grows");
  AddPair(app, "--watch-fragmentation", &limits->fragmentation, 1,
          "KV cache fragmentation, 0 to 1: above the second value the cache is compacted, down to "
          "the first");
}

void AddLatencyWatch(CLI::App* app, LoadGuardLimits* limits) {
  AddPair(app, "--watch-latency", &limits->latency, 1e9,
          "95th percentile of time to first token or between tokens, in seconds: warning, alarm");
}

engine::LoadGuardOptions LoadGuardOptionsOf(const LoadGuardLimits& limits) {
  return {.kv_low = limits.kv.first,
          .kv_high = limits.kv.second,
          .fragmentation_low = limits.fragmentation.first,
          .fragmentation_high = limits.fragmentation.second,
          .latency_warning = limits.latency.first,
          .latency_alarm = limits.latency.second};
}

}  // namespace tandem::launcher
