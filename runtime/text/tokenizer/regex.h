// A compiled pattern of tokenizer.json.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

// PCRE2's types without its header, which needs a macro set before it is included.
struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace tandem::tokenizer {

// Bytes [begin, end) of a text.
struct Span {
  size_t begin;
  size_t end;
  bool is_match;
};

// What matching needs to write to. One per call of Encode: a compiled pattern is shared by
// threads, this is not.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  // Matching starts on 32 KiB of the thread's stack; the rare pattern and text that need more
  // get a stack of their own.
  void GrowStack();

  pcre2_real_match_data_8* match_data_;
  pcre2_real_match_context_8* context_;
  pcre2_real_jit_stack_8* jit_stack_ = nullptr;
};

// Whose characters a pattern knows.
enum class UnicodeOf {
  kReference,  // those of the reference's patterns (newer_characters.h)
  kPcre2       // those of PCRE2
};

class Regex {
 public:
  // InvalidArgument for a pattern that ToPcre2 refuses or that does not compile.
  static absl::StatusOr<Regex> Compile(std::string_view oniguruma_pattern,
                                       UnicodeOf unicode = UnicodeOf::kReference);

  // Splits `text` (valid UTF-8) into matches and what lies between, in order, and appends the
  // spans. An empty match directly after another match is skipped, as the reference does.
  // ResourceExhausted where one search needs more steps or memory than the limits allow.
  absl::Status Split(std::string_view text, RegexScratch& scratch, std::vector<Span>* spans) const;

  // The same spans, one after the other. An error of `sink` ends the search. `sink` may search
  // with `scratch`.
  absl::Status ForEachSpan(std::string_view text, RegexScratch& scratch,
                           absl::FunctionRef<absl::Status(const Span&)> sink) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  Regex(pcre2_real_code_8* code, UnicodeOf unicode) : code_(code), unicode_(unicode) {}

  // The first match at or after `from`: 1, 0 where there is none, or PCRE2's negative error.
  int Search(std::string_view text, size_t from, RegexScratch& scratch, Span* match) const;

  std::unique_ptr<pcre2_real_code_8, Free> code_;
  UnicodeOf unicode_;
};

}  // namespace tandem::tokenizer
