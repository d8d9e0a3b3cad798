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

// Supported: Split (regex or string, every behavior, invert), Digits, Punctuation, Whitespace,
// WhitespaceSplit, ByteLevel, Metaspace, and a Sequence of those. ByteLevel makes the model's
// alphabet bytes; without it words are text.
class PreTokenizer {
 public:
  PreTokenizer() = default;  // the whole text is one word
  static absl::StatusOr<PreTokenizer> FromJson(const json::Field& field);

  bool has_byte_level() const { return has_byte_level_; }

  using Sink = absl::FunctionRef<absl::Status(std::string_view word)>;

  // Calls `sink` with each word of `text` (valid UTF-8), in order. `at_start`: the text begins
  // where the whole text of the caller does. With ByteLevel words are bytes: the mapping onto the
  // byte-level alphabet is left to the vocabulary. Words live as long as the call of `sink`.
  absl::Status Run(std::string_view text, bool at_start, PreTokenizerScratch& scratch,
                   Sink sink) const;

  // Whether every byte of a text is part of a word.
  bool KeepsText() const;

 private:
  struct Split {
    std::variant<Regex, std::string> pattern;  // a string is searched for as it is
    SplitBehavior behavior;
    bool invert;  // what lies between the matches counts as match
  };
  // Puts a space before a piece that has none.
  struct PrefixSpace {};
  // Spells a piece in the byte-level alphabet: what follows a ByteLevel cuts that.
  struct ToByteLevel {};
  struct Metaspace {
    enum class Prepends { kAlways, kFirst, kNever };
    std::string replacement;
    Prepends prepends;
    bool splits;  // before each replacement
  };
  using Step = std::variant<Split, PrefixSpace, ToByteLevel, Metaspace>;

  absl::Status Add(const json::Field& field);
  absl::Status AddStep(const json::Field& field, std::string_view type);
  absl::Status AddSplit(const json::Field& field);
  absl::Status AddByteLevel(const json::Field& field);
  absl::Status AddMetaspace(const json::Field& field);
  absl::Status AddPattern(const json::Field& field, std::string_view pattern,
                          SplitBehavior behavior, bool invert = false);
  absl::Status RunFrom(size_t step, std::string_view text, bool at_start,
                       PreTokenizerScratch& scratch, Sink sink) const;
  absl::Status RunSpan(size_t step, std::string_view text, const Span& span, bool at_start,
                       PreTokenizerScratch& scratch, Sink sink) const;
  absl::Status RunSpans(size_t step, std::string_view text, bool at_start,
                        PreTokenizerScratch& scratch, Sink sink) const;

  std::vector<Step> steps_;
  bool has_byte_level_ = false;
  bool spells_ = false;  // a ToByteLevel is among the steps
};

}  // namespace tandem::tokenizer
