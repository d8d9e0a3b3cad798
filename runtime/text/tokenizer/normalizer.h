// Unicode normal forms through utf8proc, as the reference computes them: its tables are those of
// Unicode 9, so that characters that came later are left where they stand.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/json_field.h"
#include "runtime/text/tokenizer/regex.h"

namespace tandem::tokenizer {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` in the given form. O(n log n) whatever the text: combining marks are sorted, not
// bubbled. `text` must be valid UTF-8. ResourceExhausted if it grows beyond what can be held.
absl::StatusOr<std::string> Normalize(std::string_view text, NormalForm form);

// The field "normalizer": null, NFC, NFD, NFKC, NFKD, Prepend, Replace (of a string or of a
// pattern), Strip, or a Sequence of those.
class Normalizer {
 public:
  Normalizer() = default;  // leaves text as it is
  static absl::StatusOr<Normalizer> FromJson(const json::Field& field);

  bool IsIdentity() const { return steps_.empty(); }
  // Nothing but NFC, which most files that have a normalizer ask for.
  bool IsAtMostNfc() const;
  absl::StatusOr<std::string> Apply(std::string_view text) const;

 private:
  struct Prepend {  // to what is not empty
    std::string text;
  };
  struct Replace {
    std::variant<Regex, std::string> pattern;
    std::string with;
  };
  struct Strip {  // white space
    bool left;
    bool right;
  };
  using Step = std::variant<NormalForm, Prepend, Replace, Strip>;

  absl::Status Add(const json::Field& field);
  absl::Status AddReplace(const json::Field& field);
  static absl::StatusOr<std::string> ApplyStep(const Step& step, std::string_view text);

  std::vector<Step> steps_;  // in order
};

}  // namespace tandem::tokenizer
