// How quantization configurations name the modules that they mean: whole names, classes, parts of
// names and Python regular expressions.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

struct pcre2_real_code_8;

namespace tandem::loader {

enum class ModuleClass : uint8_t { kLinear, kEmbedding };

class NamePattern {
 public:
  enum class Kind : uint8_t {
    kName,   // the whole name
    kClass,  // "Linear" or "Embedding"
    kPart,   // anywhere in the name
    kRegex,  // matches from the name's start on, as Python's re.match
  };
  // INVALID_ARGUMENT says what is wrong with a regular expression. The other kinds always succeed.
  static absl::StatusOr<NamePattern> Make(Kind kind, std::string_view text);

  Kind kind() const { return kind_; }
  const std::string& text() const { return text_; }
  // INVALID_ARGUMENT where a regular expression needs more backtracking than its limit allows,
  // which no sensible one does on a name: whether it matches is unknown then.
  absl::StatusOr<bool> Matches(std::string_view module, ModuleClass module_class) const;

 private:
  Kind kind_ = Kind::kName;
  std::string text_;
  std::shared_ptr<pcre2_real_code_8> code_;  // of kRegex
};

}  // namespace tandem::loader
