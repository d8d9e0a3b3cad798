// The field "model": a BPE vocabulary and its merges, over bytes or over characters.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/json_field.h"

namespace tandem::tokenizer {

// Ids are below this: the tables are indexed by id, so one absurd id must not size them.
inline constexpr int32_t kIdLimit = 1 << 22;

// What words and the vocabulary are written in.
enum class BpeAlphabet {
  kBytes,      // the vocabulary spells bytes in the byte-level alphabet (byte_level.h)
  kCharacters  // both are plain text, as SentencePiece writes it
};

class Bpe {
 public:
  // An error that names the model's type if it is another.
  static absl::Status CheckType(const json::Field& field);
  static absl::StatusOr<Bpe> FromJson(const json::Field& field, BpeAlphabet alphabet);

  // Appends the ids of one word (under 2^31 bytes; with kCharacters valid UTF-8). O(n log n) in its
  // length. Const and thread-safe. A byte or character that the vocabulary lacks becomes, with
  // byte_fallback, the tokens <0xHH> of its bytes, else the unknown token; without that it is left
  // out, as in the reference. Returns how many bytes were left out.
  size_t Encode(std::string_view word, std::vector<int32_t>* ids) const;

  // One past the largest id.
  int32_t id_limit() const { return static_cast<int32_t>(tokens_.size()); }
  // Whether the vocabulary names this id; ids may have holes.
  bool Has(int32_t id) const { return id >= 0 && id < id_limit() && tokens_[id].exists; }
  // kBytes: the bytes that the token stands for; kCharacters: its text. `id` must exist. Valid as
  // long as this object.
  std::string_view BytesOf(int32_t id) const { return View(tokens_[id]); }
  // Whether each byte is a symbol, so that no text is left out.
  bool HasAllBytes() const;
  // The id of a token as the vocabulary spells it (a space is U+0120 with kBytes).
  std::optional<int32_t> IdOf(std::string_view token) const;

 private:
  // A token's place in `bytes_`.
  struct Token {
    uint32_t offset = 0;
    uint32_t size = 0;
    bool exists = false;
  };
  // How a pair of adjacent symbols merges: rank << 32 | id of the result, so that the smallest
  // value is the merge to do first.
  using Merge = uint64_t;
  static constexpr Merge kNoMerge = UINT64_MAX;

  // What encoding a word that is itself a token gives: that token or not. Found out once a token
  // and kept: words of text are single tokens more often than not, and a byte a token is a cache
  // that cannot grow. Every thread writes the same value.
  enum WordState : uint8_t { kUnknown, kOneToken, kManyTokens };

  absl::Status FindFallback(const json::Field& field);
  // `token` as words spell it; nullopt if no word becomes it.
  std::optional<std::string> Spelled(std::string_view token) const;
  absl::Status ReadSettings(const json::Field& field);
  absl::Status ReadVocab(const json::Field& vocab);
  absl::Status ReadMerges(const json::Field& merges);

  std::string_view View(const Token& token) const {
    return {bytes_.data() + token.offset, token.size};
  }
  Merge MergeOf(int32_t left, int32_t right) const;
  size_t Symbols(std::string_view word, std::vector<int32_t>* symbols) const;
  // The token of `character`, or -1.
  int32_t SymbolOf(std::string_view character) const;
  void MergeShort(std::vector<int32_t>* symbols) const;
  void MergeLong(std::vector<int32_t>* symbols) const;

  BpeAlphabet alphabet_ = BpeAlphabet::kBytes;
  // The bytes of all tokens, one after another. No std::string: moving a short one moves its bytes.
  std::vector<char> bytes_;
  std::vector<Token> tokens_;      // by id
  std::vector<int32_t> byte_ids_;  // [256] the token of each byte that is a symbol, or -1
  std::vector<int32_t> fallback_;  // [256] the tokens <0xHH>, or -1; empty: no byte_fallback
  // Keys view into bytes_.
  absl::flat_hash_map<std::string_view, int32_t> id_of_bytes_;
  // With kBytes, tokens with a character outside the byte-level alphabet: no word becomes one.
  absl::flat_hash_map<std::string, int32_t> id_of_other_;
  absl::flat_hash_map<uint64_t, Merge> merges_;          // by left << 32 | right
  std::unique_ptr<std::atomic<uint8_t>[]> word_states_;  // by id
  std::string unknown_token_;
  int32_t unknown_id_ = -1;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace tandem::tokenizer
