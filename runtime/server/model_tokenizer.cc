#include "runtime/server/model_tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace tandem::server {
namespace {

constexpr char kTokenizerFile[] = "tokenizer.json";
constexpr char kConfigFile[] = "tokenizer_config.json";
constexpr size_t kMaxConfigBytes = size_t{64} << 20;
// Their add_bos_token changes nothing: the post-processor alone counts.
constexpr std::array<std::string_view, 7> kClassesWithoutBos = {
    "PreTrainedTokenizerFast", "TokenizersBackend", "Qwen2Tokenizer",    "Qwen2TokenizerFast",
    "GPT2Tokenizer",           "GPT2TokenizerFast", "BloomTokenizerFast"};

// The text of bos_token where text is to begin with it. What is wrong in the file is said where the
// chat template is read.
std::optional<std::string> BosToAdd(const std::string& text) {
  const nlohmann::json config = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object() || config.value("add_bos_token", nlohmann::json()) != true) {
    return std::nullopt;
  }
  const nlohmann::json type = config.value("tokenizer_class", nlohmann::json());
  if (type.is_string() && std::count(kClassesWithoutBos.begin(), kClassesWithoutBos.end(),
                                     std::string_view(type.get_ref<const std::string&>())) != 0) {
    return std::nullopt;
  }
  nlohmann::json token = config.value("bos_token", nlohmann::json());
  if (token.is_object()) token = token.value("content", nlohmann::json());
  if (!token.is_string()) return std::nullopt;
  return token.get<std::string>();
}

}  // namespace

absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> LoadTokenizer(
    const loader::ModelFolder& folder) {
  if (!folder.Has(kTokenizerFile)) return nullptr;
  TANDEM_ASSIGN_OR_RETURN(auto tokenizer,
                          tokenizer::Tokenizer::FromFile(folder.PathOf(kTokenizerFile)));
  tokenizer->ReportLeftOut([](size_t bytes) {
    spdlog::warn(
        "tokenizer: the vocabulary has no tokens for {} bytes of a text; such bytes are left out "
        "(said once)",
        bytes);
  });
  if (!folder.Has(kConfigFile)) return tokenizer;
  TANDEM_ASSIGN_OR_RETURN(const std::string config,
                          folder.ReadSmallFile(kConfigFile, kMaxConfigBytes));
  const std::optional<std::string> bos = BosToAdd(config);
  if (!bos.has_value()) return tokenizer;
  if (const std::optional<int32_t> id = tokenizer->IdOf(*bos)) {
    tokenizer->BeginWith(*id);
  } else {
    spdlog::warn(
        "{}: add_bos_token is true, but the tokenizer has no bos_token \"{}\": none is "
        "added",
        folder.PathOf(kConfigFile), *bos);
  }
  return tokenizer;
}

}  // namespace tandem::server
