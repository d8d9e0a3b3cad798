#include "runtime/loader/name_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::loader {
namespace {

constexpr size_t kMaxPattern = 4096;
constexpr uint32_t kMatchLimit = 100'000;

std::string ErrorText(int error) {
  PCRE2_UCHAR text[128] = {};
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

absl::StatusOr<NamePattern> NamePattern::Make(Kind kind, std::string_view text) {
  NamePattern pattern;
  pattern.kind_ = kind;
  pattern.text_ = std::string(text);
  if (kind != Kind::kRegex) return pattern;
  if (text.size() > kMaxPattern) {
    return absl::InvalidArgumentError(
        absl::StrCat("an expression of ", text.size(), " bytes, expected at most ", kMaxPattern));
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                   PCRE2_ANCHORED, &error, &offset, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("an expression that is wrong at byte ", offset,
                                                   " (", ErrorText(error),
                                                   "), expected a regular expression"));
  }
  pattern.code_ = std::shared_ptr<pcre2_real_code_8>(code, pcre2_code_free);
  return pattern;
}

absl::StatusOr<bool> NamePattern::Matches(std::string_view module, ModuleClass module_class) const {
  switch (kind_) {
    case Kind::kName:
      return module == text_;
    case Kind::kClass:
      return text_ == (module_class == ModuleClass::kLinear ? "Linear" : "Embedding");
    case Kind::kPart:
      return module.find(text_) != std::string_view::npos;
    case Kind::kRegex: {
      pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
      pcre2_match_context* context = pcre2_match_context_create(nullptr);
      pcre2_set_match_limit(context, kMatchLimit);
      const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(module.data()),
                                     module.size(), 0, 0, data, context);
      pcre2_match_context_free(context);
      pcre2_match_data_free(data);
      if (result == PCRE2_ERROR_NOMATCH) return false;
      if (result >= 0) return true;
      return absl::InvalidArgumentError(ErrorText(result));
    }
  }
  return false;
}

}  // namespace tandem::loader
