// Text to token ids and back, as a Hugging Face tokenizer.json describes it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/text/tokenizer/added_tokens.h"
#include "runtime/text/tokenizer/bpe.h"
#include "runtime/text/tokenizer/normalizer.h"
#include "runtime/text/tokenizer/pre_tokenizer.h"

namespace tandem::tokenizer {

// Whether special tokens that stand in the text become their ids (as in the reference) or are
// text like any other (for what a user wrote, so that it cannot end a turn).
enum class SpecialTokensInText { kParse, kAsText };

// A byte-level BPE tokenizer. Everything is as the file says; a file that asks for anything else
// is refused by name. "truncation" and "padding" are not read: they are a caller's settings, and
// Transformers resets them too. Immutable after loading: all threads may use one.
//
// The same ids as tokenizers 0.21.1 (patterns of Unicode 14, normal forms of 9), with these
// exceptions:
//   - added tokens keep the ids of the file; the reference counts on from the vocabulary's end;
//   - a byte that has no token, with no unknown token set, is an error; the reference drops it;
//   - an added token that model.vocab lacks decodes to its content; the reference takes it through
//     the byte-level alphabet and so breaks one that is all of U+00A1 to U+0143, such as "é".
class Tokenizer {
 public:
  // Text of more bytes is refused.
  static constexpr size_t kMaxTextBytes = size_t{1} << 30;

  // InvalidArgument, in one line: file, field, what was found, what was expected.
  // NotFound or another error of the system where the file cannot be read.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromFile(const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view json,
                                                             std::string_view name_for_errors);

  // The ids of `text`. `add_special_tokens` adds what the post-processor's template says, e.g. a
  // BOS before. InvalidArgument for text that is not UTF-8 (names the byte's offset) or too long;
  // ResourceExhausted where a pattern of the file gives up on it. NUL is a character like others.
  absl::StatusOr<std::vector<int32_t>> Encode(
      std::string_view text, bool add_special_tokens,
      SpecialTokensInText special = SpecialTokensInText::kParse) const;

  // The exact bytes, which need not be UTF-8 where `ids` begin or end inside a character;
  // Utf8Lossy() of them is what the reference gives. InvalidArgument names an id without a token.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // The bytes of one token; valid as long as this object. InvalidArgument as Decode.
  absl::StatusOr<std::string_view> TokenBytes(int32_t id) const;

  // One past the largest id. Ids below may have no token (see HasToken), and a model's logits may
  // have more columns.
  int32_t vocab_size() const { return vocab_size_; }
  bool HasToken(int32_t id) const;
  // The id of a token as the file spells it: an added token's content, or a token of the
  // vocabulary in the byte-level alphabet.
  std::optional<int32_t> IdOf(std::string_view token) const;
  // Whether skip_special_tokens leaves the id out; false for ids without a token.
  bool IsSpecial(int32_t id) const;

 private:
  Tokenizer() = default;
  absl::Status Load(const nlohmann::json& document, std::string_view name);
  absl::Status LoadPostProcessor(const json::Field& field);
  absl::Status LoadTemplate(const json::Field& field);
  absl::Status EncodePlain(std::string_view text, PreTokenizerScratch& scratch,
                           std::vector<int32_t>* ids) const;
  absl::Status EncodeNormalized(std::string_view text, SpecialTokensInText special,
                                PreTokenizerScratch& scratch, std::vector<int32_t>* ids) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  AddedTokens added_;
  std::vector<int32_t> before_;  // what add_special_tokens puts before and after the text
  std::vector<int32_t> after_;
  bool has_template_ = false;
  int32_t vocab_size_ = 0;
};

}  // namespace tandem::tokenizer
