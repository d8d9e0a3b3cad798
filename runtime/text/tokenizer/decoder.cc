#include "runtime/text/tokenizer/decoder.h"

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"

namespace tandem::tokenizer {
namespace {

constexpr size_t kMaxSteps = 16;

// The byte of a token <0xHH>; -1 for any other.
int ByteOf(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with(">")) return -1;
  uint32_t byte = 0;
  const absl::string_view digits(token.data() + 3, 2);
  if (!absl::ascii_isxdigit(digits[0]) || !absl::SimpleHexAtoi(digits, &byte)) return -1;
  return static_cast<int>(byte);
}

std::string ReplaceAll(std::string_view text, const std::string& what, const std::string& with) {
  return absl::StrReplaceAll(absl::string_view(text.data(), text.size()), {{what, with}});
}

absl::StatusOr<std::string> OneCharacter(const json::Field& field) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view text, field.AsString());
  if (text.empty() || NextUtf8(text).length != text.size()) return field.Unexpected("a character");
  return std::string(text);
}

}  // namespace

absl::StatusOr<Decoder> Decoder::FromJson(const json::Field& field) {
  Decoder decoder;
  Stage stage = kReplaces;
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, field.Type());
  if (type != "Sequence") {
    TANDEM_RETURN_IF_ERROR(decoder.Add(field, &stage));
    return decoder;
  }
  TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 2>{"type", "decoders"}));
  TANDEM_ASSIGN_OR_RETURN(const json::Field parts, field.Get("decoders"));
  TANDEM_RETURN_IF_ERROR(parts.CheckArray());
  const size_t count = parts.value().size();
  if (count == 0 || count > kMaxSteps) {
    return parts.Error(absl::StrCat("found ", count, " decoders, expected 1 to ", kMaxSteps));
  }
  for (size_t i = 0; i < count; ++i) {
    TANDEM_RETURN_IF_ERROR(decoder.Add(parts.At(i), &stage));
  }
  const bool other = decoder.byte_fallback_ || !decoder.metaspace_.empty() ||
                     !decoder.replacements_.empty() || !decoder.token_strips_.empty() ||
                     decoder.text_strip_.has_value();
  if (decoder.byte_level_ && other) {
    return field.Error("found ByteLevel among others, expected it alone or with Fuse");
  }
  return decoder;
}

absl::Status Decoder::Add(const json::Field& field, Stage* stage) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, field.Type());
  // Returns whether the step may come after those before it.
  const auto enter = [&](Stage next) {
    const bool in_order = next >= *stage;
    *stage = next;
    return in_order ? absl::OkStatus()
                    : field.Error(absl::StrCat("found ", json::Quoted(type),
                                               " here, expected the order Replace or Metaspace, "
                                               "ByteFallback, Strip, Fuse, Strip"));
  };
  if (type == "ByteLevel") {
    if (byte_level_) return field.Error("found a second ByteLevel, expected one");
    byte_level_ = true;
    // The settings are those of the pre-tokenizer; decoding reads none of them.
    return field.CheckKeys(
        std::array<std::string_view, 4>{"type", "add_prefix_space", "trim_offsets", "use_regex"});
  }
  if (type == "Replace") {
    TANDEM_RETURN_IF_ERROR(enter(kReplaces));
    return AddReplace(field);
  }
  if (type == "Metaspace") {
    TANDEM_RETURN_IF_ERROR(enter(kReplaces));
    return AddMetaspace(field);
  }
  if (type == "ByteFallback") {
    TANDEM_RETURN_IF_ERROR(enter(kBytes));
    byte_fallback_ = true;
    return field.CheckKeys(std::array<std::string_view, 1>{"type"});
  }
  if (type == "Fuse") {
    TANDEM_RETURN_IF_ERROR(enter(kFuses));
    return field.CheckKeys(std::array<std::string_view, 1>{"type"});
  }
  if (type == "Strip") {
    const Stage next = *stage >= kFuses ? kStripsText : kStripsTokens;
    TANDEM_RETURN_IF_ERROR(enter(next));
    return AddStrip(field, next);
  }
  return field.Error(
      absl::StrCat("found type ", json::Quoted(type),
                   ", expected ByteLevel, Replace, Metaspace, ByteFallback, Strip or Fuse"));
}

absl::Status Decoder::AddReplace(const json::Field& field) {
  TANDEM_RETURN_IF_ERROR(
      field.CheckKeys(std::array<std::string_view, 3>{"type", "pattern", "content"}));
  TANDEM_ASSIGN_OR_RETURN(const json::Field pattern, field.Get("pattern"));
  TANDEM_RETURN_IF_ERROR(pattern.CheckKeys(std::array<std::string_view, 1>{"String"}));
  TANDEM_ASSIGN_OR_RETURN(const json::Field string, pattern.Get("String"));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view what, string.AsString());
  if (what.empty()) return string.Unexpected("a string that is not empty");
  TANDEM_ASSIGN_OR_RETURN(const json::Field content, field.Get("content"));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view with, content.AsString());
  replacements_.emplace_back(what, with);
  return absl::OkStatus();
}

absl::Status Decoder::AddMetaspace(const json::Field& field) {
  if (!metaspace_.empty() || !replacements_.empty()) {
    return field.Error("found Metaspace after another step, expected it first");
  }
  TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 6>{
      "type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"}));
  TANDEM_ASSIGN_OR_RETURN(const json::Field replacement, field.Get("replacement"));
  TANDEM_ASSIGN_OR_RETURN(metaspace_, OneCharacter(replacement));
  TANDEM_ASSIGN_OR_RETURN(const std::optional<bool> add, field.Bool("add_prefix_space"));
  TANDEM_ASSIGN_OR_RETURN(const std::optional<std::string> scheme, field.String("prepend_scheme"));
  metaspace_prepends_ = add.value_or(true) && scheme.value_or("always") != "never";
  return absl::OkStatus();
}

absl::Status Decoder::AddStrip(const json::Field& field, Stage stage) {
  TANDEM_RETURN_IF_ERROR(
      field.CheckKeys(std::array<std::string_view, 4>{"type", "content", "start", "stop"}));
  TANDEM_ASSIGN_OR_RETURN(const json::Field content, field.Get("content"));
  Strip strip;
  TANDEM_ASSIGN_OR_RETURN(strip.content, OneCharacter(content));
  TANDEM_ASSIGN_OR_RETURN(const int64_t start, field.RequiredInt("start", 0, 1 << 20));
  TANDEM_ASSIGN_OR_RETURN(const int64_t stop, field.RequiredInt("stop", 0, 1 << 20));
  strip.start = static_cast<size_t>(start);
  strip.stop = static_cast<size_t>(stop);
  if (stage == kStripsTokens) {
    token_strips_.push_back(std::move(strip));
    return absl::OkStatus();
  }
  if (text_strip_.has_value()) return field.Error("found a second Strip after Fuse, expected one");
  if (stop != 0) return field.Wrong("stop", "0: the end of a text is not known while it streams");
  text_strip_ = std::move(strip);
  return absl::OkStatus();
}

std::string Decoder::Replaced(std::string_view token, bool is_first) const {
  std::string text(token);
  if (!metaspace_.empty()) {
    // The reference takes all of them from the first token, not only the one that was put there.
    text = ReplaceAll(text, metaspace_, is_first && metaspace_prepends_ ? "" : " ");
  }
  for (const auto& [what, with] : replacements_) text = ReplaceAll(text, what, with);
  return text;
}

void Decoder::Append(std::string_view token, State* state, std::string* out) const {
  const std::string text = Replaced(token, !state->any);
  state->any = true;
  if (const int byte = byte_fallback_ ? ByteOf(text) : -1; byte >= 0) {
    AppendByte(static_cast<uint8_t>(byte), state, out);
    return;
  }
  EndRun(state, out);
  AppendText(text, state, out);
}

void Decoder::AppendByte(uint8_t byte, State* state, std::string* out) const {
  if (state->broken) {
    AppendText(kReplacementCharacter, state, out);
    return;
  }
  state->bytes.push_back(static_cast<char>(byte));
  const std::string_view bytes = state->bytes;
  while (state->whole < bytes.size()) {
    const Utf8Step step = NextUtf8(bytes.substr(state->whole));
    if (step.code_point >= 0) {
      state->whole += step.length;
      continue;
    }
    if (step.incomplete) return;
    EndRun(state, out);
    state->broken = true;
    return;
  }
}

void Decoder::EndRun(State* state, std::string* out) const {
  const std::string bytes = std::exchange(state->bytes, {});
  if (state->whole == bytes.size()) {
    if (!bytes.empty()) AppendText(bytes, state, out);
  } else {
    for (size_t i = 0; i < bytes.size(); ++i) AppendText(kReplacementCharacter, state, out);
  }
  state->whole = 0;
  state->broken = false;
}

void Decoder::AppendText(std::string_view text, State* state, std::string* out) const {
  for (const Strip& strip : token_strips_) {
    for (size_t i = 0; i < strip.start && text.starts_with(strip.content); ++i) {
      text.remove_prefix(strip.content.size());
    }
    for (size_t i = 0; i < strip.stop && text.ends_with(strip.content); ++i) {
      text.remove_suffix(strip.content.size());
    }
  }
  if (text_strip_.has_value() && !state->strip_ended) {
    while (state->stripped < text_strip_->start && text.starts_with(text_strip_->content)) {
      text.remove_prefix(text_strip_->content.size());
      ++state->stripped;
    }
    state->strip_ended = !text.empty() || state->stripped == text_strip_->start;
  }
  out->append(text);
}

void Decoder::Flush(State* state, std::string* out) const {
  EndRun(state, out);
  *state = State();
}

std::string Decoder::TextOf(std::string_view token) const {
  const std::string text = Replaced(token, /*is_first=*/false);
  const int byte = byte_fallback_ ? ByteOf(text) : -1;
  return byte < 0 ? text : std::string(1, static_cast<char>(byte));
}

}  // namespace tandem::tokenizer
