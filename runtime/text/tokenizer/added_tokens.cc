#include "runtime/text/tokenizer/added_tokens.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"

namespace tandem::tokenizer {
namespace {

// \w of Rust's regex crate, which the reference uses here (and not Oniguruma's).
constexpr std::string_view kWordCharacter = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])";

// Where the white space at the end of `text` begins, looking back no further than `limit`.
size_t WhiteSpaceBefore(std::string_view text, size_t limit) {
  while (text.size() > limit) {
    const std::string_view last = LastCharacter(text);
    if (!IsWhiteSpace(NextUtf8(last).code_point)) break;
    text.remove_suffix(last.size());
  }
  return text.size();
}

// Where the white space that begins at `from` ends.
size_t WhiteSpaceAfter(std::string_view text, size_t from) {
  while (from < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(from));
    if (!IsWhiteSpace(step.code_point)) break;
    from += step.length;
  }
  return from;
}

}  // namespace

TokenTrie::TokenTrie() : nodes_(1), root_child_(256, -1) {}

int32_t TokenTrie::Child(int32_t node, char byte) const {
  if (node == 0) return root_child_[static_cast<uint8_t>(byte)];
  int32_t child = nodes_[node].first_child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].next_sibling;
  return child;
}

void TokenTrie::Insert(std::string_view content, const AddedToken* token) {
  int32_t node = 0;
  for (const char byte : content) {
    int32_t child = Child(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({nullptr, -1, nodes_[node].first_child, byte});
      nodes_[node].first_child = child;
      if (node == 0) root_child_[static_cast<uint8_t>(byte)] = child;
    }
    node = child;
  }
  if (node != 0 && nodes_[node].token == nullptr) nodes_[node].token = token;
}

const AddedToken* TokenTrie::Match(std::string_view text, size_t* length) const {
  const AddedToken* longest = nullptr;
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    node = Child(node, text[i]);
    if (node < 0) break;
    if (nodes_[node].token == nullptr) continue;
    longest = nodes_[node].token;
    *length = i + 1;
  }
  return longest;
}

absl::StatusOr<AddedToken> AddedTokens::ReadToken(const json::Field& field, const Bpe& bpe) const {
  TANDEM_RETURN_IF_ERROR(field.CheckKeys(std::array<std::string_view, 7>{
      "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
  AddedToken token;
  TANDEM_ASSIGN_OR_RETURN(const json::Field id, field.Get("id"));
  TANDEM_ASSIGN_OR_RETURN(token.id, id.AsId(kIdLimit));
  TANDEM_ASSIGN_OR_RETURN(const json::Field content, field.Get("content"));
  TANDEM_ASSIGN_OR_RETURN(const std::string_view text, content.AsString());
  token.content = std::string(text);
  TANDEM_ASSIGN_OR_RETURN(token.single_word, field.GetBool("single_word"));
  TANDEM_ASSIGN_OR_RETURN(token.lstrip, field.GetBool("lstrip"));
  TANDEM_ASSIGN_OR_RETURN(token.rstrip, field.GetBool("rstrip"));
  TANDEM_ASSIGN_OR_RETURN(token.normalized, field.GetBool("normalized"));
  TANDEM_ASSIGN_OR_RETURN(token.special, field.GetBool("special"));

  if (text.empty()) return content.Unexpected("a string that is not empty");
  if (OfContent(text) != nullptr) {
    return content.Error(absl::StrCat("found ", json::Quoted(text), " twice, expected it once"));
  }
  if (const AddedToken* other = OfId(token.id)) {
    return id.Error(absl::StrCat("found id ", token.id, ", which ", json::Quoted(other->content),
                                 " has already, expected one token an id"));
  }
  const std::optional<int32_t> model_id = bpe.IdOf(text);
  if (model_id && *model_id != token.id) {
    return id.Error(absl::StrCat("found id ", token.id, " for ", json::Quoted(text), ", expected ",
                                 *model_id, " as in model.vocab"));
  }
  if (!model_id && bpe.Has(token.id)) {
    return id.Error(absl::StrCat("found id ", token.id, " for ", json::Quoted(text),
                                 ", which model.vocab gives to another token, expected a free id"));
  }
  return token;
}

absl::StatusOr<AddedTokens> AddedTokens::FromJson(const std::optional<json::Field>& field,
                                                  const Bpe& bpe, const Normalizer& normalizer) {
  AddedTokens added;
  if (!field) return added;
  TANDEM_RETURN_IF_ERROR(field->CheckArray());
  bool any_single_word = false;
  for (size_t i = 0; i < field->value().size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(AddedToken token, added.ReadToken(field->At(i), bpe));
    any_single_word |= token.single_word;
    added.index_of_id_[token.id] = i;
    added.index_of_content_[token.content] = i;
    token.found_as = token.content;
    if (token.normalized) {
      TANDEM_ASSIGN_OR_RETURN(token.found_as, normalizer.Apply(token.content));
    }
    added.tokens_.push_back(std::move(token));
  }
  if (any_single_word) {
    TANDEM_ASSIGN_OR_RETURN(added.word_, Regex::Compile(kWordCharacter));
  }
  // Of tokens with the same normalized form the first counts, special ones before the others.
  for (const bool special : {true, false}) {
    for (const AddedToken& token : added.tokens_) {
      if (token.special != special) continue;
      (token.normalized ? added.normalized_ : added.raw_).Insert(token.found_as, &token);
    }
  }
  return added;
}

bool AddedTokens::TakesSpaces() const {
  return std::any_of(tokens_.begin(), tokens_.end(),
                     [](const AddedToken& token) { return token.lstrip || token.rstrip; });
}

const AddedToken* AddedTokens::OfId(int32_t id) const {
  const auto found = index_of_id_.find(id);
  return found == index_of_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::OfContent(std::string_view content) const {
  const auto found = index_of_content_.find(absl::string_view(content.data(), content.size()));
  return found == index_of_content_.end() ? nullptr : &tokens_[found->second];
}

absl::StatusOr<bool> AddedTokens::IsWord(std::string_view character, RegexScratch& scratch) const {
  std::vector<Span> spans;
  TANDEM_RETURN_IF_ERROR(word_->Split(character, scratch, &spans));
  return spans.front().is_match;
}

absl::StatusOr<bool> AddedTokens::IsAlone(std::string_view text, size_t begin, size_t end,
                                          RegexScratch& scratch) const {
  if (begin > 0) {
    TANDEM_ASSIGN_OR_RETURN(const bool word, IsWord(LastCharacter(text.substr(0, begin)), scratch));
    if (word) return false;
  }
  if (end < text.size()) {
    const std::string_view rest = text.substr(end);
    TANDEM_ASSIGN_OR_RETURN(const bool word,
                            IsWord(rest.substr(0, NextUtf8(rest).length), scratch));
    if (word) return false;
  }
  return true;
}

absl::Status AddedTokens::Split(std::string_view text, bool normalized, bool parse_special,
                                RegexScratch& scratch, SpanSink sink) const {
  const TokenTrie& trie = normalized ? normalized_ : raw_;
  size_t covered = 0;      // the end of the last span
  size_t white_until = 0;  // white space was seen up to here, so it is scanned once
  size_t at = 0;
  while (!trie.empty() && at < text.size()) {
    size_t length = 0;
    const AddedToken* token = trie.Match(text.substr(at), &length);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + length;
    // Even a match that is not taken uses up its bytes.
    at = end;
    if (token->special && !parse_special) continue;
    if (token->single_word) {
      TANDEM_ASSIGN_OR_RETURN(const bool alone, IsAlone(text, begin, end, scratch));
      if (!alone) continue;
    }
    if (token->lstrip) {
      // A match inside white space that the last one took may begin before `covered`, and so its
      // white space does begin there: the reference gives both tokens.
      begin = begin > covered ? WhiteSpaceBefore(text.substr(0, begin), covered) : covered;
    }
    if (token->rstrip) {
      if (end >= white_until) white_until = WhiteSpaceAfter(text, end);
      end = white_until;
    }
    if (covered < begin) TANDEM_RETURN_IF_ERROR(sink({nullptr, covered, begin}));
    TANDEM_RETURN_IF_ERROR(sink({token, begin, end}));
    covered = end;
  }
  return covered == text.size() ? absl::OkStatus() : sink({nullptr, covered, text.size()});
}

}  // namespace tandem::tokenizer
