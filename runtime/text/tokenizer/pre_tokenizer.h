// The field "pre_tokenizer": cuts text into the words that BPE merges in.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/json_field.h"
#include "runtime/text/tokenizer/regex.h"

namespace tandem::tokenizer {

// What a Split does with the matches of its pattern.
enum class SplitBehavior {
  kRemoved,             // drops them
  kIsolated,            // each is a piece of its own
  kMergedWithPrevious,  // each ends the piece before it
  kMergedWithNext,      // each begins the piece after it
  kContiguous,          // adjacent ones are one piece
};

// Turns matches and what lies between (as Regex::Split gives them) into the pieces to keep, in
// place. Pieces may be empty; the caller drops those.
void ApplyBehavior(SplitBehavior behavior, std::vector<Span>* spans);

// Writable state of one call; see RegexScratch.
struct PreTokenizerScratch {
  RegexScratch regex;
  std::vector<std::vector<Span>> spans;  // one list a step
};

// Supported: Split (regex or string, every behavior, invert), Digits, ByteLevel, and a Sequence
// of those. ByteLevel must be there and last: it makes the model's alphabet bytes.
class PreTokenizer {
 public:
  static absl::StatusOr<PreTokenizer> FromJson(const json::Field& field);

  using Sink = absl::FunctionRef<absl::Status(std::string_view word)>;

  // Calls `sink` with each word of `text` (valid UTF-8), in order. Words are bytes: the mapping
  // onto the byte-level alphabet is left to the vocabulary. They live as long as the call of
  // `sink`.
  absl::Status Run(std::string_view text, PreTokenizerScratch& scratch, Sink sink) const;

 private:
  struct Split {
    std::variant<Regex, std::string> pattern;  // a string is searched for as it is
    SplitBehavior behavior;
    bool invert;  // what lies between the matches counts as match
  };

  absl::Status Add(const json::Field& field);
  absl::Status AddSplit(const json::Field& field);
  absl::Status AddByteLevel(const json::Field& field);
  absl::Status AddRegexSplit(const json::Field& field, std::string_view pattern,
                             SplitBehavior behavior);
  absl::Status RunFrom(size_t step, std::string_view text, PreTokenizerScratch& scratch,
                       Sink sink) const;

  std::vector<Split> splits_;
  // ByteLevel may put a space before a piece; its regex, if any, is the last split. The space is
  // put before that split runs.
  bool has_byte_level_ = false;
  bool add_prefix_space_ = false;
  size_t prefix_space_step_ = 0;
};

}  // namespace tandem::tokenizer
