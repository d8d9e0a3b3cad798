// Sampling options of the command line, and the protocol's message for them: one way to the server
// and to the engine, with one set of ranges (runtime/server/validation.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tandem/v1/inference.pb.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct SamplingOptions {
  std::optional<double> temperature;
  std::optional<int32_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::vector<std::pair<int32_t, double>> logit_bias;
  std::optional<int64_t> seed;
  std::optional<int32_t> max_tokens;
  std::optional<int32_t> min_tokens;
  bool ignore_eos = false;
  std::vector<std::string> stop;
  bool include_stop = false;
  std::vector<int32_t> stop_token_ids;
};

void AddSampling(CLI::App* app, SamplingOptions* options);

v1::SamplingParams ToProto(const SamplingOptions& options);

}  // namespace tandem::launcher
