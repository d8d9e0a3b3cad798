// Unicode normal forms through utf8proc, as the reference computes them: its tables are those of
// Unicode 9, so that characters that came later are left where they stand.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/json_field.h"

namespace tandem::tokenizer {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` in the given form. O(n log n) whatever the text: combining marks are sorted, not
// bubbled. `text` must be valid UTF-8. ResourceExhausted if it grows beyond what can be held.
absl::StatusOr<std::string> Normalize(std::string_view text, NormalForm form);

// The field "normalizer": null, NFC, NFD, NFKC, NFKD, or a Sequence of those.
class Normalizer {
 public:
  Normalizer() = default;  // leaves text as it is
  static absl::StatusOr<Normalizer> FromJson(const json::Field& field);

  bool IsIdentity() const { return forms_.empty(); }
  absl::StatusOr<std::string> Apply(std::string_view text) const;

 private:
  absl::Status Add(const json::Field& field);

  std::vector<NormalForm> forms_;  // in order
};

}  // namespace tandem::tokenizer
