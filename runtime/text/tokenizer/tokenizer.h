// Text to token ids and back, as a Hugging Face tokenizer.json describes it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/text/tokenizer/added_tokens.h"
#include "runtime/text/tokenizer/bpe.h"
#include "runtime/text/tokenizer/decoder.h"
#include "runtime/text/tokenizer/normalizer.h"
#include "runtime/text/tokenizer/pre_tokenizer.h"

namespace tandem::tokenizer {

// Whether special tokens that stand in the text become their ids (as in the reference) or are
// text like any other (for what a user wrote, so that it cannot end a turn).
enum class SpecialTokensInText { kParse, kAsText };

// A BPE tokenizer, over bytes (GPT-2, Llama 3, Qwen) or over characters (as SentencePiece has it:
// Llama 2, Mistral, Phi-3, Gemma). Everything is as the file says; a file that asks for anything
// else is refused by name. "truncation" and "padding" are not read: they are a caller's settings,
// and Transformers resets them too. Immutable after loading: all threads may use one.
//
// The same ids as tokenizers 0.23.3 (patterns of Unicode 16, normal forms of 9), with these
// exceptions:
//   - added tokens keep the ids of the file; the reference counts on from the vocabulary's end;
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
  // OutOfRange as soon as there are more than `max_tokens`: the work is bounded by that number.
  absl::StatusOr<std::vector<int32_t>> Encode(
      std::string_view text, bool add_special_tokens,
      SpecialTokensInText special = SpecialTokensInText::kParse,
      size_t max_tokens = SIZE_MAX) const;

  // A text of so many bytes has at least so many tokens, whatever it says: the bytes divided by
  // those of the longest token. 0 where that does not hold, as some text may vanish.
  int64_t LeastTokens(size_t bytes) const;
  // What that divides by; 0: not known.
  int64_t longest_token() const { return longest_token_; }

  // The exact bytes, which need not be UTF-8 where `ids` begin or end inside a character;
  // Utf8Lossy() of them is what the reference gives. As there, an id without a token has no text: a
  // model's logits may have more columns than its tokenizer has tokens.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // The bytes of one token in the middle of a text; valid as long as this object. InvalidArgument
  // names an id without a token.
  absl::StatusOr<std::string_view> TokenBytes(int32_t id) const;

  // One past the largest id. Ids below may have no token (see HasToken), and a model's logits may
  // have more columns.
  int32_t vocab_size() const { return vocab_size_; }
  bool HasToken(int32_t id) const;
  // The id of a token as the file spells it: an added token's content, or a token of the
  // vocabulary, in the byte-level alphabet where that is of bytes.
  std::optional<int32_t> IdOf(std::string_view token) const;
  const std::vector<AddedToken>& added_tokens() const { return added_.tokens(); }
  // Whether skip_special_tokens leaves the id out; false for ids without a token.
  bool IsSpecial(int32_t id) const;

  // Before threads share the tokenizer. `report` is called once, for the first text with bytes that
  // the vocabulary has no tokens for, with their number: they are left out, as in the reference.
  void ReportLeftOut(std::function<void(size_t)> report) { on_left_out_ = std::move(report); }

  // Encode with special tokens begins with `id`, which must exist, if it does not yet.
  void BeginWith(int32_t id);

  // How the file spells the token, which must exist: with a vocabulary of bytes those.
  std::string_view SpellingOf(int32_t id) const;
  const Decoder& decoder() const { return decoder_; }

 private:
  Tokenizer() = default;
  absl::Status Load(const nlohmann::json& document, std::string_view name);
  absl::Status LoadPostProcessor(const json::Field& field);
  absl::Status LoadTemplate(const json::Field& field);
  void FindTexts();
  void MeasureTokens();
  // State of one Encode.
  struct Encoding {
    SpecialTokensInText special = SpecialTokensInText::kParse;
    size_t max_tokens = SIZE_MAX;
    PreTokenizerScratch scratch;
    std::vector<int32_t> ids;
    absl::Status CheckLength() const;
    absl::Status Add(int32_t id);
  };
  // `at_start`: the text begins where the caller's does.
  absl::Status EncodePlain(std::string_view text, bool at_start, Encoding& encoding) const;
  absl::Status EncodeNormalized(std::string_view text, bool at_start, Encoding& encoding) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  AddedTokens added_;
  Decoder decoder_;
  std::vector<std::string> texts_;  // by id, of a vocabulary of characters: what TokenBytes gives
  std::vector<int32_t> before_;     // what add_special_tokens puts before and after the text
  std::vector<int32_t> after_;
  bool has_template_ = false;
  int32_t vocab_size_ = 0;
  int64_t longest_token_ = 0;  // bytes of text that one token stands for at most; 0: not known
  std::function<void(size_t)> on_left_out_;
  mutable std::atomic<bool> said_ = false;  // on_left_out_ was called
};

}  // namespace tandem::tokenizer
