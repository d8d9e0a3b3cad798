#include "runtime/text/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/json.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"

namespace tandem::tokenizer {
namespace {

// Real files have up to 40 MB.
constexpr size_t kMaxFileBytes = size_t{512} << 20;
constexpr size_t kMaxTemplateTokens = 1024;
// NFC makes one byte of three at most (U+212A is K), and one syllable of three.
constexpr int64_t kNfcShrinks = 3;

absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromFile(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  return FromJson(text, path);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view json,
                                                               std::string_view name_for_errors) {
  TANDEM_ASSIGN_OR_RETURN(const nlohmann::json document, json::Parse(json, name_for_errors));
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer());
  try {
    TANDEM_RETURN_IF_ERROR(tokenizer->Load(document, name_for_errors));
  } catch (const std::exception& error) {
    // Types are checked before values are taken, so this is memory or a mistake of ours; either
    // way a file does not end the process.
    return absl::InternalError(absl::StrCat(ToAbsl(name_for_errors), ": ", error.what()));
  }
  return tokenizer;
}

absl::Status Tokenizer::Load(const nlohmann::json& document, std::string_view name) {
  const json::Field root(document, std::string(name));
  TANDEM_RETURN_IF_ERROR(root.CheckKeys(std::array<std::string_view, 9>{
      "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
      "post_processor", "decoder", "model"}));
  if (const auto version = root.Find("version")) {
    TANDEM_ASSIGN_OR_RETURN(const std::string_view text, version->AsString());
    if (text != "1.0") return version->Unexpected("\"1.0\"");
  }
  // The pre-tokenizer says what the vocabulary is written in. Yet of a file that is none of ours
  // the model's type says most.
  TANDEM_ASSIGN_OR_RETURN(const json::Field model, root.Get("model"));
  TANDEM_RETURN_IF_ERROR(Bpe::CheckType(model));
  if (const auto field = root.Find("pre_tokenizer")) {
    TANDEM_ASSIGN_OR_RETURN(pre_tokenizer_, PreTokenizer::FromJson(*field));
  }
  const bool bytes = pre_tokenizer_.has_byte_level();
  TANDEM_ASSIGN_OR_RETURN(
      bpe_, Bpe::FromJson(model, bytes ? BpeAlphabet::kBytes : BpeAlphabet::kCharacters));
  if (const auto field = root.Find("normalizer")) {
    TANDEM_ASSIGN_OR_RETURN(normalizer_, Normalizer::FromJson(*field));
  }
  TANDEM_ASSIGN_OR_RETURN(const json::Field decoder, root.Get("decoder"));
  TANDEM_ASSIGN_OR_RETURN(decoder_, Decoder::FromJson(decoder));
  if (bytes != decoder_.is_byte_level()) {
    return decoder.Error(bytes ? "found no ByteLevel, expected it, as in pre_tokenizer"
                               : "found ByteLevel, expected none, as in pre_tokenizer");
  }
  TANDEM_ASSIGN_OR_RETURN(added_,
                          AddedTokens::FromJson(root.Find("added_tokens"), bpe_, normalizer_));
  vocab_size_ = bpe_.id_limit();
  for (const AddedToken& token : added_.tokens()) vocab_size_ = std::max(vocab_size_, token.id + 1);
  if (const auto field = root.Find("post_processor")) {
    TANDEM_RETURN_IF_ERROR(LoadPostProcessor(*field));
  }
  FindTexts();
  MeasureTokens();
  return absl::OkStatus();
}

void Tokenizer::FindTexts() {
  if (decoder_.is_byte_level()) return;
  texts_.resize(vocab_size_);
  for (int32_t id = 0; id < vocab_size_; ++id) {
    if (HasToken(id)) texts_[id] = decoder_.TextOf(SpellingOf(id));
  }
}

std::string_view Tokenizer::SpellingOf(int32_t id) const {
  const AddedToken* token = added_.OfId(id);
  // To the reference a normalized token of characters is its normalized form, with a space before
  // it, say.
  if (token != nullptr && !decoder_.is_byte_level()) return token->found_as;
  return bpe_.Has(id) ? bpe_.BytesOf(id) : std::string_view(token->content);
}

absl::Status Tokenizer::LoadPostProcessor(const json::Field& field) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view type, field.Type());
  if (type == "Sequence") {
    TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 2>{"type", "processors"}));
    TANDEM_ASSIGN_OR_RETURN(const json::Field parts, field.Get("processors"));
    TANDEM_RETURN_IF_ERROR(parts.CheckArray());
    for (size_t i = 0; i < parts.value().size(); ++i) {
      TANDEM_RETURN_IF_ERROR(LoadPostProcessor(parts.At(i)));
    }
    return absl::OkStatus();
  }
  if (type == "ByteLevel") {
    // Trims offsets, which this library does not report, and adds nothing.
    return field.CheckKeys(
        std::array<std::string_view, 4>{"type", "add_prefix_space", "trim_offsets", "use_regex"});
  }
  if (type == "TemplateProcessing") return LoadTemplate(field);
  return field.Error(absl::StrCat("found type ", json::Quoted(type),
                                  ", expected ByteLevel, TemplateProcessing or a Sequence"));
}

absl::Status Tokenizer::LoadTemplate(const json::Field& field) {
  TANDEM_RETURN_IF_ERROR(
      field.CheckKeys(std::array<std::string_view, 4>{"type", "single", "pair", "special_tokens"}));
  if (has_template_) return field.Error("found a second TemplateProcessing, expected one");
  has_template_ = true;
  TANDEM_ASSIGN_OR_RETURN(const json::Field single, field.Get("single"));
  TANDEM_RETURN_IF_ERROR(single.CheckArray());
  bool after_text = false;
  for (size_t i = 0; i < single.value().size(); ++i) {
    const json::Field piece = single.At(i);
    if (const auto sequence = piece.Find("Sequence")) {
      TANDEM_ASSIGN_OR_RETURN(const json::Field id, sequence->Get("id"));
      TANDEM_ASSIGN_OR_RETURN(const std::string_view name, id.AsString());
      if (name != "A" || after_text) return id.Unexpected("the sequence \"A\" once");
      after_text = true;
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(const json::Field special, piece.Get("SpecialToken"));
    TANDEM_ASSIGN_OR_RETURN(const json::Field id, special.Get("id"));
    TANDEM_ASSIGN_OR_RETURN(const std::string_view name, id.AsString());
    TANDEM_ASSIGN_OR_RETURN(const json::Field table, field.Get("special_tokens"));
    TANDEM_ASSIGN_OR_RETURN(const json::Field entry, table.Get(name));
    TANDEM_ASSIGN_OR_RETURN(const json::Field ids, entry.Get("ids"));
    TANDEM_RETURN_IF_ERROR(ids.CheckArray());
    for (size_t j = 0; j < ids.value().size(); ++j) {
      const json::Field token = ids.At(j);
      TANDEM_ASSIGN_OR_RETURN(const int32_t token_id, token.AsId(kIdLimit));
      if (!HasToken(token_id)) return token.Unexpected("the id of a token");
      if (before_.size() + after_.size() == kMaxTemplateTokens) {
        return field.Error(
            absl::StrCat("found more than ", kMaxTemplateTokens, " tokens, expected fewer"));
      }
      (after_text ? after_ : before_).push_back(token_id);
    }
  }
  if (!after_text) return single.Error("found no sequence \"A\", expected it once");
  return absl::OkStatus();
}

absl::Status Tokenizer::Encoding::CheckLength() const {
  if (ids.size() <= max_tokens) return absl::OkStatus();
  return absl::OutOfRangeError(
      absl::StrCat("found more than ", max_tokens, " tokens, expected fewer"));
}

absl::Status Tokenizer::Encoding::Add(int32_t id) {
  ids.push_back(id);
  return CheckLength();
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special_tokens,
                                                       SpecialTokensInText special,
                                                       size_t max_tokens) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("found text of ", text.size(), " bytes, expected at most ", kMaxTextBytes));
  }
  if (const size_t at = FindInvalidUtf8(text); at != text.npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "found invalid UTF-8 at byte ", at, " of the text (0x",
        absl::Hex(static_cast<uint8_t>(text[at]), absl::kZeroPad2), "), expected UTF-8"));
  }
  Encoding encoding;
  encoding.special = special;
  encoding.max_tokens = max_tokens;
  std::vector<int32_t>& ids = encoding.ids;
  if (add_special_tokens) ids = before_;
  // Tokens that are not to be normalized come first; what lies between them is normalized and
  // looked through for the others. Each piece is normalized by itself.
  const auto encode = [&](const AddedTokenSpan& span) -> absl::Status {
    if (span.token != nullptr) return encoding.Add(span.token->id);
    const std::string_view piece = text.substr(span.begin, span.end - span.begin);
    const bool at_start = span.begin == 0;
    if (normalizer_.IsIdentity()) return EncodeNormalized(piece, at_start, encoding);
    TANDEM_ASSIGN_OR_RETURN(const std::string normalized, normalizer_.Apply(piece));
    return EncodeNormalized(normalized, at_start, encoding);
  };
  TANDEM_RETURN_IF_ERROR(added_.Split(text, /*normalized=*/false,
                                      special == SpecialTokensInText::kParse,
                                      encoding.scratch.regex, encode));
  if (add_special_tokens) ids.insert(ids.end(), after_.begin(), after_.end());
  TANDEM_RETURN_IF_ERROR(encoding.CheckLength());
  return std::move(ids);
}

absl::Status Tokenizer::EncodeNormalized(std::string_view text, bool at_start,
                                         Encoding& encoding) const {
  const auto encode = [&](const AddedTokenSpan& span) {
    return span.token != nullptr ? encoding.Add(span.token->id)
                                 : EncodePlain(text.substr(span.begin, span.end - span.begin),
                                               at_start && span.begin == 0, encoding);
  };
  return added_.Split(text, /*normalized=*/true, encoding.special == SpecialTokensInText::kParse,
                      encoding.scratch.regex, encode);
}

absl::Status Tokenizer::EncodePlain(std::string_view text, bool at_start,
                                    Encoding& encoding) const {
  size_t left_out = 0;
  TANDEM_RETURN_IF_ERROR(
      pre_tokenizer_.Run(text, at_start, encoding.scratch, [&](std::string_view word) {
        left_out += bpe_.Encode(word, &encoding.ids);
        return encoding.CheckLength();
      }));
  if (left_out > 0 && !said_.exchange(true, std::memory_order_relaxed) && on_left_out_) {
    on_left_out_(left_out);
  }
  return absl::OkStatus();
}

void Tokenizer::MeasureTokens() {
  // A byte without a token, a piece that is left out, spaces beside an added token: any length of
  // such text may cost nothing.
  if (!pre_tokenizer_.has_byte_level() || !bpe_.HasAllBytes() || !normalizer_.IsAtMostNfc() ||
      !pre_tokenizer_.KeepsText() || added_.TakesSpaces()) {
    return;
  }
  for (int32_t id = 0; id < vocab_size_; ++id) {
    const auto bytes = TokenBytes(id);
    if (bytes.ok()) longest_token_ = std::max(longest_token_, static_cast<int64_t>(bytes->size()));
  }
  if (!normalizer_.IsIdentity()) longest_token_ *= kNfcShrinks;
}

int64_t Tokenizer::LeastTokens(size_t bytes) const {
  return longest_token_ == 0 ? 0 : static_cast<int64_t>(bytes) / longest_token_;
}

void Tokenizer::BeginWith(int32_t id) {
  TANDEM_CHECK(HasToken(id));
  if (before_.empty() || before_[0] != id) before_.insert(before_.begin(), id);
}

bool Tokenizer::HasToken(int32_t id) const { return bpe_.Has(id) || added_.OfId(id) != nullptr; }

absl::StatusOr<std::string_view> Tokenizer::TokenBytes(int32_t id) const {
  if (HasToken(id)) return texts_.empty() ? SpellingOf(id) : std::string_view(texts_[id]);
  return absl::InvalidArgumentError(absl::StrCat(
      "found token id ", id, ", expected one that has a token, from 0 to ", vocab_size_ - 1));
}

std::optional<int32_t> Tokenizer::IdOf(std::string_view token) const {
  if (const AddedToken* added = added_.OfContent(token)) return added->id;
  if (FindInvalidUtf8(token) != token.npos) return std::nullopt;
  return bpe_.IdOf(token);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const AddedToken* token = added_.OfId(id);
  return token != nullptr && token->special;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids,
                                              bool skip_special_tokens) const {
  std::string text;
  Decoder::State state;
  for (const int32_t id : ids) {
    if (!HasToken(id) || (skip_special_tokens && IsSpecial(id))) continue;
    if (decoder_.is_byte_level()) {
      text.append(SpellingOf(id));
    } else {
      decoder_.Append(SpellingOf(id), &state, &text);
    }
  }
  decoder_.Flush(&state, &text);
  return text;
}

}  // namespace tandem::tokenizer
