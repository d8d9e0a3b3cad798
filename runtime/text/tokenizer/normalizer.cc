#include "runtime/text/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"

namespace tandem::tokenizer {
namespace {

constexpr size_t kMaxSteps = 16;
// The longest decomposition of one character, U+FDFA, has 18.
constexpr int kMaxDecomposed = 32;

absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

// No character below U+0300 combines, and NFC leaves those alone.
bool IsPlainForNfc(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 0xCC; });
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

struct CodePoints {
  int32_t first;
  int32_t last;
};

// Characters of Unicode 10 to 15 that combine or decompose. The reference (tokenizers 0.21.1, over
// unicode-normalization-alignments) does not know them: to it they are starters without a
// decomposition. Found by comparing the two over all code points, in all four forms.
constexpr CodePoints kUnknownToReference[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},
    {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785}, {0x10787, 0x107B0},
    {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11935, 0x11935},
    {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1},
    {0x1E030, 0x1E06D}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

bool IsUnknownToReference(int32_t code_point) {
  const auto* range =
      std::lower_bound(std::begin(kUnknownToReference), std::end(kUnknownToReference), code_point,
                       [](const CodePoints& range, int32_t c) { return range.last < c; });
  return range != std::end(kUnknownToReference) && range->first <= code_point;
}

int CombiningClass(int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

// Sorts adjacent combining marks by class; marks of the same class keep their order.
void OrderMarks(std::vector<int32_t>* code_points) {
  const auto is_starter = [](int32_t c) { return CombiningClass(c) == 0; };
  auto marks = code_points->begin();
  while (true) {
    marks = std::find_if_not(marks, code_points->end(), is_starter);
    if (marks == code_points->end()) return;
    const auto end = std::find_if(marks, code_points->end(), is_starter);
    std::stable_sort(marks, end,
                     [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); });
    marks = end;
  }
}

}  // namespace

absl::StatusOr<std::string> Normalize(std::string_view text, NormalForm form) {
  const bool composes = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  if (form == NormalForm::kNfc ? IsPlainForNfc(text) : IsAscii(text)) return std::string(text);

  // utf8proc_map would do all of it, but it orders marks in quadratic time.
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | (compatible ? UTF8PROC_COMPAT : 0) |
                                     (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE));
  std::string out;
  out.reserve(text.size());
  std::vector<int32_t> code_points;
  const auto finish = [&] {
    OrderMarks(&code_points);
    if (composes) {
      const utf8proc_ssize_t length = utf8proc_normalize_utf32(
          code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()), options);
      TANDEM_CHECK(length >= 0);
      code_points.resize(static_cast<size_t>(length));
    }
    for (const int32_t code_point : code_points) AppendUtf8(code_point, &out);
    code_points.clear();
  };
  std::array<utf8proc_int32_t, kMaxDecomposed> buffer;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    TANDEM_CHECK(step.code_point >= 0);
    text.remove_prefix(step.length);
    if (IsUnknownToReference(step.code_point)) {
      // A starter with which nothing composes: both sides are normalized by themselves.
      finish();
      AppendUtf8(step.code_point, &out);
      continue;
    }
    int last_boundary = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(step.code_point, buffer.data(),
                                                           buffer.size(), options, &last_boundary);
    TANDEM_CHECK(count >= 0 && count <= kMaxDecomposed);
    code_points.insert(code_points.end(), buffer.begin(), buffer.begin() + count);
  }
  finish();
  return out;
}

absl::StatusOr<Normalizer> Normalizer::FromJson(const json::Field& field) {
  Normalizer normalizer;
  TANDEM_RETURN_IF_ERROR(normalizer.Add(field));
  return normalizer;
}

absl::Status Normalizer::Add(const json::Field& field) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, field.Type());
  if (type == "Sequence") {
    TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 2>{"type", "normalizers"}));
    TANDEM_ASSIGN_OR_RETURN(const json::Field parts, field.Get("normalizers"));
    TANDEM_RETURN_IF_ERROR(parts.CheckArray());
    for (size_t i = 0; i < parts.value().size(); ++i) {
      TANDEM_RETURN_IF_ERROR(Add(parts.At(i)));
    }
    return absl::OkStatus();
  }
  if (steps_.size() == kMaxSteps) {
    return field.Error(absl::StrCat("found more than ", kMaxSteps, " normalizers, expected fewer"));
  }
  if (type == "Replace") return AddReplace(field);
  if (type == "Prepend") {
    TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 2>{"type", "prepend"}));
    TANDEM_ASSIGN_OR_RETURN(const json::Field prepend, field.Get("prepend"));
    TANDEM_ASSIGN_OR_RETURN(const std::string_view text, prepend.AsString());
    steps_.push_back(Prepend{std::string(text)});
    return absl::OkStatus();
  }
  if (type == "Strip") {
    TANDEM_RETURN_IF_ERROR(
        field.CheckKeys(std::array<std::string_view, 3>{"type", "strip_left", "strip_right"}));
    TANDEM_ASSIGN_OR_RETURN(const bool left, field.GetBool("strip_left"));
    TANDEM_ASSIGN_OR_RETURN(const bool right, field.GetBool("strip_right"));
    steps_.push_back(Strip{left, right});
    return absl::OkStatus();
  }
  constexpr std::array<std::pair<std::string_view, NormalForm>, 4> kForms = {
      {{"NFC", NormalForm::kNfc},
       {"NFD", NormalForm::kNfd},
       {"NFKC", NormalForm::kNfkc},
       {"NFKD", NormalForm::kNfkd}}};
  for (const auto& [name, form] : kForms) {
    if (type != name) continue;
    steps_.push_back(form);
    return field.CheckKeys(std::array<std::string_view, 1>{"type"});
  }
  return field.Error(absl::StrCat(
      "found type ", json::Quoted(type),
      ", expected NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip or a Sequence of them"));
}

absl::Status Normalizer::AddReplace(const json::Field& field) {
  TANDEM_RETURN_IF_ERROR(
      field.CheckKeys(std::array<std::string_view, 3>{"type", "pattern", "content"}));
  TANDEM_ASSIGN_OR_RETURN(const json::Field content, field.Get("content"));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view with, content.AsString());
  TANDEM_ASSIGN_OR_RETURN(const json::Field pattern, field.Get("pattern"));
  TANDEM_RETURN_IF_ERROR(pattern.CheckKeys(std::array<std::string_view, 2>{"String", "Regex"}));
  if (const std::optional<json::Field> regex = pattern.Find("Regex")) {
    TANDEM_ASSIGN_OR_RETURN(const std::string_view text, regex->AsString());
    absl::StatusOr<Regex> compiled = Regex::Compile(text);
    if (!compiled.ok()) {
      const absl::string_view why = compiled.status().message();
      return regex->Error({why.data(), why.size()});
    }
    steps_.push_back(Replace{*std::move(compiled), std::string(with)});
    return absl::OkStatus();
  }
  TANDEM_ASSIGN_OR_RETURN(const json::Field string, pattern.Get("String"));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view text, string.AsString());
  if (text.empty()) return string.Unexpected("a string that is not empty");
  steps_.push_back(Replace{std::string(text), std::string(with)});
  return absl::OkStatus();
}

absl::StatusOr<std::string> Normalizer::ApplyStep(const Step& step, std::string_view text) {
  if (const auto* form = std::get_if<NormalForm>(&step)) return Normalize(text, *form);
  if (const auto* prepend = std::get_if<Prepend>(&step)) {
    return text.empty() ? std::string() : absl::StrCat(prepend->text, ToAbsl(text));
  }
  if (const auto* strip = std::get_if<Strip>(&step)) {
    while (strip->left && !text.empty() && IsWhiteSpace(NextUtf8(text).code_point)) {
      text.remove_prefix(NextUtf8(text).length);
    }
    while (strip->right && !text.empty() &&
           IsWhiteSpace(NextUtf8(LastCharacter(text)).code_point)) {
      text.remove_suffix(LastCharacter(text).size());
    }
    return std::string(text);
  }
  const auto& replace = std::get<Replace>(step);
  if (const auto* string = std::get_if<std::string>(&replace.pattern)) {
    return absl::StrReplaceAll(ToAbsl(text), {{*string, replace.with}});
  }
  RegexScratch scratch;
  std::vector<Span> spans;
  TANDEM_RETURN_IF_ERROR(std::get<Regex>(replace.pattern).Split(text, scratch, &spans));
  std::string out;
  for (const Span& span : spans) {
    out.append(span.is_match ? std::string_view(replace.with)
                             : text.substr(span.begin, span.end - span.begin));
  }
  return out;
}

bool Normalizer::IsAtMostNfc() const {
  if (steps_.empty()) return true;
  const auto* form = std::get_if<NormalForm>(&steps_[0]);
  return steps_.size() == 1 && form != nullptr && *form == NormalForm::kNfc;
}

absl::StatusOr<std::string> Normalizer::Apply(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    TANDEM_ASSIGN_OR_RETURN(result, ApplyStep(step, result));
  }
  return result;
}

}  // namespace tandem::tokenizer
