#include "runtime/text/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::tokenizer {
namespace {

// Run recurses once a step.
constexpr size_t kMaxSteps = 64;

// GPT-2's pattern, which ByteLevel applies when use_regex is true.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

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
  if (!pre_tokenizer.has_byte_level_) {
    return field.Error("found no ByteLevel, expected it last: the model must be byte-level BPE");
  }
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
  if (has_byte_level_) {
    return field.Error(
        absl::StrCat("found ", json::Quoted(type), " after ByteLevel, expected nothing"));
  }
  if (splits_.size() >= kMaxSteps) {
    return field.Error(absl::StrCat("found more than ", kMaxSteps, " steps, expected fewer"));
  }
  if (type == "Split") return AddSplit(field);
  if (type == "ByteLevel") return AddByteLevel(field);
  if (type == "Digits") {
    TANDEM_RETURN_IF_ERROR(
        field.CheckKeys(std::array<std::string_view, 2>{"type", "individual_digits"}));
    TANDEM_ASSIGN_OR_RETURN(const bool individual, field.GetBool("individual_digits"));
    return AddRegexSplit(field, "\\p{N}",
                         individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  return field.Error(absl::StrCat("found type ", json::Quoted(type),
                                  ", expected Split, Digits, ByteLevel or a Sequence of them"));
}

absl::Status PreTokenizer::AddRegexSplit(const json::Field& field, std::string_view pattern,
                                         SplitBehavior behavior) {
  absl::StatusOr<Regex> regex = Regex::Compile(pattern);
  if (!regex.ok()) {
    const absl::string_view why = regex.status().message();
    return field.Error({why.data(), why.size()});
  }
  splits_.push_back({*std::move(regex), behavior, /*invert=*/false});
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
    TANDEM_RETURN_IF_ERROR(AddRegexSplit(*regex, text, behavior));
    splits_.back().invert = invert;
    return absl::OkStatus();
  }
  TANDEM_ASSIGN_OR_RETURN(const json::Field string, pattern.Get("String"));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view text, string.AsString());
  if (text.empty()) return string.Unexpected("a string that is not empty");
  splits_.push_back({std::string(text), behavior, invert});
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddByteLevel(const json::Field& field) {
  // trim_offsets concerns offsets alone, which this library does not report.
  TANDEM_RETURN_IF_ERROR(field.CheckKeys(
      std::array<std::string_view, 4>{"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  TANDEM_ASSIGN_OR_RETURN(add_prefix_space_, field.GetBool("add_prefix_space"));
  TANDEM_RETURN_IF_ERROR(field.BoolOr("trim_offsets", true).status());
  TANDEM_ASSIGN_OR_RETURN(const bool use_regex, field.BoolOr("use_regex", true));
  has_byte_level_ = true;
  prefix_space_step_ = splits_.size();
  return use_regex ? AddRegexSplit(field, kGpt2Pattern, SplitBehavior::kIsolated)
                   : absl::OkStatus();
}

absl::Status PreTokenizer::Run(std::string_view text, PreTokenizerScratch& scratch,
                               Sink sink) const {
  scratch.spans.resize(splits_.size());
  if (text.empty()) return absl::OkStatus();
  return RunFrom(0, text, scratch, sink);
}

absl::Status PreTokenizer::RunFrom(size_t step, std::string_view text, PreTokenizerScratch& scratch,
                                   Sink sink) const {
  std::string with_space;
  if (add_prefix_space_ && step == prefix_space_step_ && !text.starts_with(' ')) {
    with_space.reserve(text.size() + 1);
    with_space.push_back(' ');
    with_space.append(text);
    text = with_space;
  }
  if (step == splits_.size()) return sink(text);
  const Split& split = splits_[step];
  std::vector<Span>& spans = scratch.spans[step];
  spans.clear();
  if (const auto* regex = std::get_if<Regex>(&split.pattern)) {
    TANDEM_RETURN_IF_ERROR(regex->Split(text, scratch.regex, &spans));
  } else {
    CutAtString(text, std::get<std::string>(split.pattern), &spans);
  }
  if (split.invert) {
    for (Span& span : spans) span.is_match = !span.is_match;
  }
  ApplyBehavior(split.behavior, &spans);
  // Later steps write to lists of their own: this one stays as it is.
  for (const Span& span : spans) {
    if (span.begin == span.end) continue;
    TANDEM_RETURN_IF_ERROR(
        RunFrom(step + 1, text.substr(span.begin, span.end - span.begin), scratch, sink));
  }
  return absl::OkStatus();
}

}  // namespace tandem::tokenizer
