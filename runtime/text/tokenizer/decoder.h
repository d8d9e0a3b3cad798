// The field "decoder": how the texts of tokens become the text of an answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/json_field.h"

namespace tandem::tokenizer {

// Supported: ByteLevel, alone or with Fuse; and for vocabularies of characters a Sequence of
// Replace (of a string), Metaspace, ByteFallback, Strip and Fuse, of which only Strip at the start
// of the text may follow Fuse. Anything else is refused by name.
class Decoder {
 public:
  static absl::StatusOr<Decoder> FromJson(const json::Field& field);

  // Tokens are bytes, and the answer is those bytes in a row; Append and TextOf are not used.
  bool is_byte_level() const { return byte_level_; }

  // What an answer's decoding remembers from token to token.
  struct State {
    bool any = false;          // a token came before
    std::string bytes;         // of a run of tokens <0xHH>, while it may be valid UTF-8
    size_t whole = 0;          // of `bytes`, the whole characters
    bool broken = false;       // the run is not UTF-8: each of its bytes is U+FFFD
    size_t stripped = 0;       // characters that Strip took from the start of the text
    bool strip_ended = false;  // by another character
  };
  // Appends what a token, as its vocabulary spells it, adds to the text. To the reference a run of
  // bytes is UTF-8 as a whole or not at all, so its text is held back until another token comes.
  void Append(std::string_view token, State* state, std::string* out) const;
  // What was held back. The state is as new after it.
  void Flush(State* state, std::string* out) const;

  // The bytes of a token in the middle of a text.
  std::string TextOf(std::string_view token) const;

 private:
  struct Strip {
    std::string content;  // one character
    size_t start;
    size_t stop;
  };
  // The order in which steps may follow one another, which is that of real files.
  enum Stage { kReplaces, kBytes, kStripsTokens, kFuses, kStripsText };

  absl::Status Add(const json::Field& field, Stage* stage);
  absl::Status AddReplace(const json::Field& field);
  absl::Status AddStrip(const json::Field& field, Stage stage);
  absl::Status AddMetaspace(const json::Field& field);
  std::string Replaced(std::string_view token, bool is_first) const;
  void AppendByte(uint8_t byte, State* state, std::string* out) const;
  void EndRun(State* state, std::string* out) const;
  // A token as it is after ByteFallback.
  void AppendText(std::string_view text, State* state, std::string* out) const;

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  std::string metaspace_;  // what stands for a space; empty: there is no Metaspace
  bool metaspace_prepends_ = false;
  std::vector<std::pair<std::string, std::string>> replacements_;
  std::vector<Strip> token_strips_;
  std::optional<Strip> text_strip_;  // at the start of the text
};

}  // namespace tandem::tokenizer
