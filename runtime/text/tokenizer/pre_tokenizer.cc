#include "runtime/text/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"
#include "runtime/text/tokenizer/byte_level.h"

namespace tandem::tokenizer {
namespace {

// Run recurses once a step.
constexpr size_t kMaxSteps = 64;

// GPT-2's pattern, which ByteLevel applies when use_regex is true.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What Whitespace keeps, in Rust's \w.
constexpr std::string_view kWordsAndOthers =
    R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}]+|)"
    R"([^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}\s]+)";

// What Punctuation matches: ASCII's signs, and the category as the reference's older tables have it
// (found by comparing the two over all code points).
constexpr std::string_view kPunctuation =
    R"((?![)"
    R"(\x{61D}\x{9FD}\x{A76}\x{C77}\x{C84}\x{1B7D}-\x{1B7E}\x{2E43}-\x{2E4F})"
    R"(\x{2E52}-\x{2E5D}\x{10EAD}\x{10F55}-\x{10F59}\x{10F86}-\x{10F89})"
    R"(\x{1144B}-\x{1144F}\x{1145A}-\x{1145B}\x{1145D}\x{11660}-\x{1166C}\x{116B9})"
    R"(\x{1183B}\x{11944}-\x{11946}\x{119E2}\x{11A3F}-\x{11A46}\x{11A9A}-\x{11A9C})"
    R"(\x{11A9E}-\x{11AA2}\x{11C41}-\x{11C45}\x{11C70}-\x{11C71}\x{11EF7}-\x{11EF8})"
    R"(\x{11FFF}\x{12FF1}-\x{12FF2}\x{16E97}-\x{16E9A}\x{16FE2}\x{1E95E}-\x{1E95F})"
    R"(])[\p{P}\x{166D}\x{111C9}!-/:-@\[-`{-~])";

absl::StatusOr<SplitBehavior> ParseBehavior(const json::Field& field) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view name, field.AsString());
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames = {{
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  }};
  for (const auto& [known, behavior] : kNames) {
    if (known == name) return behavior;
  }
  return field.Unexpected("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

// As Regex::Split, for a string. An empty one matches between all characters: that is no cut that a
// tokenizer asks for, and FromJson refuses it.
void CutAtString(std::string_view text, std::string_view string, std::vector<Span>* spans) {
  size_t covered = 0;
  for (size_t at; (at = text.find(string, covered)) != text.npos; covered = at + string.size()) {
    if (covered != at) spans->push_back({covered, at, false});
    spans->push_back({at, at + string.size(), true});
  }
  if (covered != text.size()) spans->push_back({covered, text.size(), false});
}

// One pass in reading order (or, for MergedWithNext, against it): `joins` says whether a span
// joins the one before it, given whether each of the two is a match.
template <typename Iterator, typename Joins>
size_t Merge(Iterator begin, Iterator end, Joins joins) {
  Iterator kept = begin;
  bool previous_match = false;
  bool any = false;
  for (Iterator it = begin; it != end; ++it) {
    const Span span = *it;
    if (any && joins(span.is_match, previous_match)) {
      Span& last = *(kept - 1);
      last.begin = std::min(last.begin, span.begin);
      last.end = std::max(last.end, span.end);
    } else {
      *kept++ = span;
      any = true;
    }
    previous_match = span.is_match;
  }
  return static_cast<size_t>(kept - begin);
}

}  // namespace

void ApplyBehavior(SplitBehavior behavior, std::vector<Span>* spans) {
  const auto match_after_other = [](bool is_match, bool previous) { return is_match && !previous; };
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kRemoved:
      std::erase_if(*spans, [](const Span& span) { return span.is_match; });
      return;
    case SplitBehavior::kContiguous:
      spans->resize(Merge(spans->begin(), spans->end(),
                          [](bool is_match, bool previous) { return is_match == previous; }));
      return;
    case SplitBehavior::kMergedWithPrevious:
      spans->resize(Merge(spans->begin(), spans->end(), match_after_other));
      return;
    case SplitBehavior::kMergedWithNext: {
      const size_t kept = Merge(spans->rbegin(), spans->rend(), match_after_other);
      spans->erase(spans->begin(), spans->end() - static_cast<std::ptrdiff_t>(kept));
      return;
    }
  }
}

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const json::Field& field) {
  PreTokenizer pre_tokenizer;
  TANDEM_RETURN_IF_ERROR(pre_tokenizer.Add(field));
  return pre_tokenizer;
}

absl::Status PreTokenizer::Add(const json::Field& field) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, field.Type());
  if (type == "Sequence") {
    TANDEM_RETURN_IF_ERROR(
        field.CheckKeys(std::array<std::string_view, 2>{"type", "pretokenizers"}));
    TANDEM_ASSIGN_OR_RETURN(const json::Field parts, field.Get("pretokenizers"));
    TANDEM_RETURN_IF_ERROR(parts.CheckArray());
    for (size_t i = 0; i < parts.value().size(); ++i) {
      TANDEM_RETURN_IF_ERROR(Add(parts.At(i)));
    }
    return absl::OkStatus();
  }
  if (steps_.size() >= kMaxSteps) {
    return field.Error(absl::StrCat("found more than ", kMaxSteps, " steps, expected fewer"));
  }
  if (has_byte_level_ && !spells_) {
    spells_ = true;
    steps_.push_back(ToByteLevel());
  }
  return AddStep(field, type);
}

absl::Status PreTokenizer::AddStep(const json::Field& field, std::string_view type) {
  if (type == "Split") return AddSplit(field);
  if (type == "ByteLevel") return AddByteLevel(field);
  if (type == "Metaspace") return AddMetaspace(field);
  if (type == "Digits") {
    TANDEM_RETURN_IF_ERROR(
        field.CheckKeys(std::array<std::string_view, 2>{"type", "individual_digits"}));
    TANDEM_ASSIGN_OR_RETURN(const bool individual, field.BoolOr("individual_digits", false));
    return AddPattern(field, "\\p{N}",
                      individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 2>{"type", "behavior"}));
    SplitBehavior behavior = SplitBehavior::kIsolated;
    if (const auto asked = field.Find("behavior")) {
      TANDEM_ASSIGN_OR_RETURN(behavior, ParseBehavior(*asked));
    }
    TANDEM_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kPunctuation, UnicodeOf::kPcre2));
    steps_.push_back(Split{std::move(regex), behavior, /*invert=*/false});
    return absl::OkStatus();
  }
  if (type == "Whitespace" || type == "WhitespaceSplit") {
    TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 1>{"type"}));
    return type == "WhitespaceSplit"
               ? AddPattern(field, "\\s", SplitBehavior::kRemoved)
               : AddPattern(field, kWordsAndOthers, SplitBehavior::kRemoved, /*invert=*/true);
  }
  return field.Error(absl::StrCat("found type ", json::Quoted(type),
                                  ", expected Split, Digits, Punctuation, Whitespace, "
                                  "WhitespaceSplit, ByteLevel, Metaspace or a Sequence of them"));
}

absl::Status PreTokenizer::AddPattern(const json::Field& field, std::string_view pattern,
                                      SplitBehavior behavior, bool invert) {
  absl::StatusOr<Regex> regex = Regex::Compile(pattern);
  if (!regex.ok()) {
    const absl::string_view why = regex.status().message();
    return field.Error({why.data(), why.size()});
  }
  steps_.push_back(Split{*std::move(regex), behavior, invert});
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddSplit(const json::Field& field) {
  TANDEM_RETURN_IF_ERROR(
      field.CheckKeys(std::array<std::string_view, 4>{"type", "pattern", "behavior", "invert"}));
  TANDEM_ASSIGN_OR_RETURN(const json::Field behavior_field, field.Get("behavior"));
  TANDEM_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(behavior_field));
  TANDEM_ASSIGN_OR_RETURN(const bool invert, field.GetBool("invert"));
  TANDEM_ASSIGN_OR_RETURN(const json::Field pattern, field.Get("pattern"));
  if (pattern.value().size() != 1 || !pattern.value().is_object()) {
    return pattern.Unexpected("one field, Regex or String");
  }
  if (const std::optional<json::Field> regex = pattern.Find("Regex")) {
    TANDEM_ASSIGN_OR_RETURN(const std::string_view text, regex->AsString());
    return AddPattern(*regex, text, behavior, invert);
  }
  TANDEM_ASSIGN_OR_RETURN(const json::Field string, pattern.Get("String"));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view text, string.AsString());
  if (text.empty()) return string.Unexpected("a string that is not empty");
  steps_.push_back(Split{std::string(text), behavior, invert});
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddByteLevel(const json::Field& field) {
  if (has_byte_level_) return field.Error("found a second ByteLevel, expected one");
  // trim_offsets concerns offsets alone, which this library does not report.
  TANDEM_RETURN_IF_ERROR(field.CheckKeys(
      std::array<std::string_view, 4>{"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  TANDEM_ASSIGN_OR_RETURN(const bool add_prefix_space, field.GetBool("add_prefix_space"));
  TANDEM_RETURN_IF_ERROR(field.BoolOr("trim_offsets", true).status());
  TANDEM_ASSIGN_OR_RETURN(const bool use_regex, field.BoolOr("use_regex", true));
  has_byte_level_ = true;
  if (add_prefix_space) steps_.push_back(PrefixSpace());
  return use_regex ? AddPattern(field, kGpt2Pattern, SplitBehavior::kIsolated) : absl::OkStatus();
}

absl::Status PreTokenizer::AddMetaspace(const json::Field& field) {
  TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 6>{
      "type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"}));
  Metaspace step;
  TANDEM_ASSIGN_OR_RETURN(const json::Field replacement, field.Get("replacement"));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view character, replacement.AsString());
  if (character.empty() || NextUtf8(character).length != character.size()) {
    return replacement.Unexpected("a character");
  }
  step.replacement = std::string(character);
  // Files of before prepend_scheme have add_prefix_space, true or false.
  TANDEM_ASSIGN_OR_RETURN(const bool add, field.BoolOr("add_prefix_space", true));
  TANDEM_ASSIGN_OR_RETURN(const std::optional<std::string> scheme, field.String("prepend_scheme"));
  const std::string name = scheme.value_or(add ? "always" : "never");
  if (name == "always") {
    step.prepends = Metaspace::Prepends::kAlways;
  } else if (name == "first") {
    step.prepends = Metaspace::Prepends::kFirst;
  } else if (name == "never") {
    step.prepends = Metaspace::Prepends::kNever;
  } else {
    return field.Wrong("prepend_scheme", "always, first or never");
  }
  if (!add && name != "never") {
    return field.Wrong("add_prefix_space", absl::StrCat("true, as prepend_scheme is ", name));
  }
  TANDEM_ASSIGN_OR_RETURN(step.splits, field.BoolOr("split", true));
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PreTokenizer::Run(std::string_view text, bool at_start, PreTokenizerScratch& scratch,
                               Sink sink) const {
  scratch.spans.resize(steps_.size());
  if (text.empty()) return absl::OkStatus();
  return RunFrom(0, text, at_start, scratch, sink);
}

absl::Status PreTokenizer::RunFrom(size_t step, std::string_view text, bool at_start,
                                   PreTokenizerScratch& scratch, Sink sink) const {
  if (step == steps_.size()) {
    if (!spells_) return sink(text);
    const std::optional<std::string> bytes = BytesOfToken(text);
    TANDEM_CHECK(bytes.has_value());  // ToByteLevel wrote it
    return sink(*bytes);
  }
  if (std::holds_alternative<PrefixSpace>(steps_[step])) {
    if (text.starts_with(' ')) return RunFrom(step + 1, text, at_start, scratch, sink);
    return RunFrom(step + 1, absl::StrCat(" ", absl::string_view(text.data(), text.size())),
                   at_start, scratch, sink);
  }
  if (std::holds_alternative<ToByteLevel>(steps_[step])) {
    return RunFrom(step + 1, TokenOfBytes(text), at_start, scratch, sink);
  }
  if (const auto* split = std::get_if<Split>(&steps_[step]);
      split != nullptr && split->behavior == SplitBehavior::kIsolated) {
    if (const auto* regex = std::get_if<Regex>(&split->pattern)) {
      // Each span is a piece whatever it is: no list of them, which would be many times the text.
      return regex->ForEachSpan(text, scratch.regex, [&](const Span& span) {
        return RunSpan(step, text, span, at_start, scratch, sink);
      });
    }
  }
  std::vector<Span>& spans = scratch.spans[step];
  spans.clear();
  if (const auto* metaspace = std::get_if<Metaspace>(&steps_[step])) {
    const std::string& mark = metaspace->replacement;
    std::string marked =
        absl::StrReplaceAll(absl::string_view(text.data(), text.size()), {{" ", mark}});
    const bool prepends = metaspace->prepends == Metaspace::Prepends::kAlways ||
                          (metaspace->prepends == Metaspace::Prepends::kFirst && at_start);
    if (prepends && !marked.starts_with(mark)) marked.insert(0, mark);
    if (!metaspace->splits) return RunFrom(step + 1, marked, at_start, scratch, sink);
    CutAtString(marked, mark, &spans);
    ApplyBehavior(SplitBehavior::kMergedWithNext, &spans);
    return RunSpans(step, marked, at_start, scratch, sink);
  }
  const Split& split = std::get<Split>(steps_[step]);
  if (const auto* regex = std::get_if<Regex>(&split.pattern)) {
    TANDEM_RETURN_IF_ERROR(regex->Split(text, scratch.regex, &spans));
  } else {
    CutAtString(text, std::get<std::string>(split.pattern), &spans);
  }
  if (split.invert) {
    for (Span& span : spans) span.is_match = !span.is_match;
  }
  ApplyBehavior(split.behavior, &spans);
  return RunSpans(step, text, at_start, scratch, sink);
}

absl::Status PreTokenizer::RunSpans(size_t step, std::string_view text, bool at_start,
                                    PreTokenizerScratch& scratch, Sink sink) const {
  // Later steps write to lists of their own: this one stays as it is.
  for (const Span& span : scratch.spans[step]) {
    TANDEM_RETURN_IF_ERROR(RunSpan(step, text, span, at_start, scratch, sink));
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::RunSpan(size_t step, std::string_view text, const Span& span,
                                   bool at_start, PreTokenizerScratch& scratch, Sink sink) const {
  if (span.begin == span.end) return absl::OkStatus();
  return RunFrom(step + 1, text.substr(span.begin, span.end - span.begin),
                 at_start && span.begin == 0, scratch, sink);
}

bool PreTokenizer::KeepsText() const {
  return std::none_of(steps_.begin(), steps_.end(), [](const Step& step) {
    const auto* split = std::get_if<Split>(&step);
    return split != nullptr && split->behavior == SplitBehavior::kRemoved;
  });
}

}  // namespace tandem::tokenizer
