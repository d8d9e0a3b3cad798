#include "runtime/text/tokenizer/regex.h"

#include <algorithm>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"
#include "runtime/text/tokenizer/newer_characters.h"
#include "runtime/text/tokenizer/regex_syntax.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace tandem::tokenizer {
namespace {

// Steps of one search. Real patterns need a few per byte, and may read a megabyte in one search;
// a pattern that needs more backtracks without end.
constexpr uint32_t kMatchLimit = 50'000'000;
constexpr uint32_t kHeapLimitKiB = 64 << 10;
constexpr size_t kJitStackStart = 64 << 10;
constexpr size_t kJitStackMax = 64 << 20;
// Longer patterns are no tokenizer's, and PCRE2's compiler is quadratic in places.
constexpr size_t kMaxPatternBytes = 64 << 10;

// `text` with known characters in place of newer ones, of as many bytes; empty if it has none.
std::string WithStandIns(std::string_view text) {
  static const std::span<const NewerCharacters> kNewer = AllNewerCharacters();
  std::string out;
  size_t at = 0;
  while (true) {
    // All of them are beyond U+0800, and so begin with a byte from 0xE0 on.
    while (at < text.size() && static_cast<uint8_t>(text[at]) < 0xE0) ++at;
    if (at == text.size()) return out;
    const Utf8Step step = NextUtf8(text.substr(at));
    const auto found = std::lower_bound(
        kNewer.begin(), kNewer.end(), step.code_point,
        [](const NewerCharacters& range, int32_t code_point) { return range.last < code_point; });
    if (found != kNewer.end() && found->first <= step.code_point) {
      if (out.empty()) out = text;
      std::string stand_in;
      AppendUtf8(found->stand_in, &stand_in);
      out.replace(at, step.length, stand_in);
    }
    at += step.length;
  }
}

std::string MessageOf(int error) {
  PCRE2_UCHAR buffer[160];
  if (pcre2_get_error_message(error, buffer, sizeof(buffer)) < 0) {
    return absl::StrCat("PCRE2 error ", error);
  }
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

RegexScratch::RegexScratch()
    : match_data_(pcre2_match_data_create(1, nullptr)),
      context_(pcre2_match_context_create(nullptr)) {
  TANDEM_CHECK(match_data_ != nullptr && context_ != nullptr);
  pcre2_set_match_limit(context_, kMatchLimit);
  pcre2_set_heap_limit(context_, kHeapLimitKiB);
}

RegexScratch::~RegexScratch() {
  pcre2_match_data_free(match_data_);
  pcre2_match_context_free(context_);
  if (jit_stack_ != nullptr) pcre2_jit_stack_free(jit_stack_);
}

void RegexScratch::GrowStack() {
  jit_stack_ = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
  if (jit_stack_ != nullptr) pcre2_jit_stack_assign(context_, nullptr, jit_stack_);
}

void Regex::Free::operator()(pcre2_code* code) const { pcre2_code_free(code); }

absl::StatusOr<Regex> Regex::Compile(std::string_view oniguruma_pattern, UnicodeOf unicode) {
  if (oniguruma_pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat("found a pattern of ", oniguruma_pattern.size(),
                                                   " bytes, expected at most ", kMaxPatternBytes));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string pattern, ToPcre2(oniguruma_pattern));
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  TANDEM_CHECK(context != nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("found a pattern that does not compile (",
                                                   MessageOf(error), " near byte ", offset, " of ",
                                                   pattern, "), expected a regular expression"));
  }
  // Without the compiler (a system that allows no executable memory) PCRE2 interprets.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return Regex(code, unicode);
}

int Regex::Search(std::string_view text, size_t from, RegexScratch& scratch, Span* match) const {
  const auto search = [&] {
    // The text was checked once; checking it again in each search would cost the square.
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK, scratch.match_data_, scratch.context_);
  };
  int result = search();
  if (result == PCRE2_ERROR_JIT_STACKLIMIT && scratch.jit_stack_ == nullptr) {
    scratch.GrowStack();
    result = search();
  }
  if (result == PCRE2_ERROR_NOMATCH) return 0;
  if (result < 0) return result;
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch.match_data_);
  *match = {bounds[0], bounds[1], true};
  return 1;
}

absl::Status Regex::Split(std::string_view text, RegexScratch& scratch,
                          std::vector<Span>* spans) const {
  return ForEachSpan(text, scratch, [spans](const Span& span) {
    spans->push_back(span);
    return absl::OkStatus();
  });
}

absl::Status Regex::ForEachSpan(std::string_view text, RegexScratch& scratch,
                                absl::FunctionRef<absl::Status(const Span&)> sink) const {
  std::string known;
  if (unicode_ == UnicodeOf::kReference) known = WithStandIns(text);
  if (!known.empty()) text = known;
  size_t covered = 0;        // the end of the last span
  size_t from = 0;           // where the next search starts
  bool after_match = false;  // a match ended at `covered`
  while (from <= text.size()) {
    Span match;
    const int result = Search(text, from, scratch, &match);
    if (result < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("the pattern gave up at byte ", from,
                                                       " of a piece of ", text.size(),
                                                       " bytes: ", MessageOf(result)));
    }
    if (result == 0) break;
    if (match.begin == match.end && after_match && match.end == covered) {
      // Step over one character; at the end of the text there is none.
      from = match.end + (match.end < text.size() ? NextUtf8(text.substr(match.end)).length : 1);
      continue;
    }
    if (covered != match.begin) TANDEM_RETURN_IF_ERROR(sink({covered, match.begin, false}));
    TANDEM_RETURN_IF_ERROR(sink(match));
    from = covered = match.end;
    after_match = true;
  }
  return covered == text.size() ? absl::OkStatus() : sink({covered, text.size(), false});
}

}  // namespace tandem::tokenizer
