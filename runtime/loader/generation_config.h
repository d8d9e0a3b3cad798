// generation_config.json: the sampling defaults that a model's makers suggest.
// A request's own values win over these, and these over built-in ones.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/loader/model_folder.h"

namespace tandem::loader {

// An absent or null field is nullopt (empty for eos_token_ids).
struct GenerationConfig {
  std::optional<bool> do_sample;             // false: greedy, whatever temperature says
  std::optional<double> temperature;         // >= 0
  std::optional<double> top_p;               // [0, 1]; 0: greedy
  std::optional<int64_t> top_k;              // >= -1; 0 and -1: off
  std::optional<double> min_p;               // [0, 1]
  std::optional<double> repetition_penalty;  // > 0; 1: off
  std::optional<int64_t> max_new_tokens;     // >= 1
  std::optional<int32_t> bos_token_id;
  // Any of these ends a generation. Wins over ModelConfig::eos_token_ids when
  // not empty.
  std::vector<int32_t> eos_token_ids;
};

// `name` (a path) only appears in messages. Errors as in hf_config.h.
absl::StatusOr<GenerationConfig> ParseGenerationConfig(std::string_view text,
                                                       std::string_view name);

// A folder without generation_config.json gives one with every field absent.
absl::StatusOr<GenerationConfig> ReadGenerationConfig(const ModelFolder& folder);

}  // namespace tandem::loader
