// The field "added_tokens": strings that are found in the text before it is split into words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/json_field.h"
#include "runtime/text/tokenizer/bpe.h"
#include "runtime/text/tokenizer/normalizer.h"
#include "runtime/text/tokenizer/regex.h"

namespace tandem::tokenizer {

struct AddedToken {
  int32_t id;
  std::string content;
  bool single_word;  // not next to a word character
  bool lstrip;       // takes the white space before it
  bool rstrip;       // takes the white space after it
  bool normalized;   // is looked for in the normalized text, itself normalized
  bool special;
  std::string found_as;  // what is looked for: the content, normalized where it is to be
};

// Bytes [begin, end) of a text: an added token, or text where `token` is null.
struct AddedTokenSpan {
  const AddedToken* token;
  size_t begin;
  size_t end;
};

// Finds the leftmost and of those the longest of a set of strings.
class TokenTrie {
 public:
  TokenTrie();
  // Of equal strings the first counts.
  void Insert(std::string_view content, const AddedToken* token);
  bool empty() const { return nodes_.size() == 1; }
  // The longest token that `text` begins with, and its length there; null if none.
  const AddedToken* Match(std::string_view text, size_t* length) const;

 private:
  struct Node {
    const AddedToken* token = nullptr;
    int32_t first_child = -1;
    int32_t next_sibling = -1;
    char byte = 0;
  };
  int32_t Child(int32_t node, char byte) const;

  std::vector<Node> nodes_;          // the root first
  std::vector<int32_t> root_child_;  // [256] the root's children by byte, or -1
};

class AddedTokens {
 public:
  // Ids are the file's, and must agree with those of the model's vocabulary for the tokens that
  // are in it. Two tokens may not have the same id or content.
  // `field` may be absent: nullopt.
  static absl::StatusOr<AddedTokens> FromJson(const std::optional<json::Field>& field,
                                              const Bpe& bpe, const Normalizer& normalizer);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // Whether some token takes the white space beside it.
  bool TakesSpaces() const;
  const AddedToken* OfId(int32_t id) const;
  const AddedToken* OfContent(std::string_view content) const;

  // Cuts `text` (valid UTF-8) at the tokens with the given `normalized`, in order, as the
  // reference does. With `parse_special` false the special ones are text. An error of `sink` ends
  // it; `sink` may search with `scratch`.
  using SpanSink = absl::FunctionRef<absl::Status(const AddedTokenSpan&)>;
  absl::Status Split(std::string_view text, bool normalized, bool parse_special,
                     RegexScratch& scratch, SpanSink sink) const;

 private:
  absl::StatusOr<AddedToken> ReadToken(const json::Field& field, const Bpe& bpe) const;
  absl::StatusOr<bool> IsWord(std::string_view character, RegexScratch& scratch) const;
  absl::StatusOr<bool> IsAlone(std::string_view text, size_t begin, size_t end,
                               RegexScratch& scratch) const;

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<int32_t, size_t> index_of_id_;
  absl::flat_hash_map<std::string, size_t> index_of_content_;
  TokenTrie raw_;  // not normalized
  TokenTrie normalized_;
  std::optional<Regex> word_;  // one word character; only if a token is single_word
};

}  // namespace tandem::tokenizer
