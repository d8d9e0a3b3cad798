#include "runtime/loader/generation_config.h"

#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/json.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr int kMaxDepth = 16;
constexpr char kFileName[] = "generation_config.json";

}  // namespace

absl::StatusOr<GenerationConfig> ParseGenerationConfig(std::string_view text,
                                                       std::string_view name) {
  TANDEM_ASSIGN_OR_RETURN(const nlohmann::json root, json::Parse(text, name, kMaxDepth));
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), ": found ", json::Shown(root),
                                                   ", expected an object of fields"));
  }
  constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
  const json::Field fields(root, name);
  GenerationConfig config;
  TANDEM_ASSIGN_OR_RETURN(config.do_sample, fields.Bool("do_sample"));
  TANDEM_ASSIGN_OR_RETURN(config.temperature, fields.Double("temperature", 0, 1e6));
  TANDEM_ASSIGN_OR_RETURN(config.top_p, fields.Double("top_p", 0, 1));
  TANDEM_ASSIGN_OR_RETURN(config.top_k, fields.Int("top_k", -1, kMaxInt));
  TANDEM_ASSIGN_OR_RETURN(config.min_p, fields.Double("min_p", 0, 1));
  TANDEM_ASSIGN_OR_RETURN(config.repetition_penalty, fields.Double("repetition_penalty", 0, 1e6));
  if (config.repetition_penalty == 0) return fields.Wrong("repetition_penalty", "more than 0");
  TANDEM_ASSIGN_OR_RETURN(config.max_new_tokens, fields.Int("max_new_tokens", 1, kMaxInt));
  TANDEM_ASSIGN_OR_RETURN(const auto bos, fields.Int("bos_token_id", 0, kMaxInt));
  if (bos) config.bos_token_id = static_cast<int32_t>(*bos);
  TANDEM_ASSIGN_OR_RETURN(config.eos_token_ids, fields.TokenIds("eos_token_id"));
  return config;
}

absl::StatusOr<GenerationConfig> ReadGenerationConfig(const ModelFolder& folder) {
  if (!folder.Has(kFileName)) return GenerationConfig();
  TANDEM_ASSIGN_OR_RETURN(const std::string text, folder.ReadSmallFile(kFileName, kMaxBytes));
  return ParseGenerationConfig(text, folder.PathOf(kFileName));
}

}  // namespace tandem::loader
