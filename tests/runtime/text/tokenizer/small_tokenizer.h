// A byte-level tokenizer.json small enough to read, to be changed by tests.
#pragma once

#include <string>

#include "nlohmann/json.hpp"
#include "runtime/text/tokenizer/byte_level.h"

namespace tandem::tokenizer {

// Token 0 to 255 are the bytes; 256 "ab", 257 "abc", 258 "cd", 259 "aa", 260 "aaaa"; merges in
// that order of rank. 261 "<s>" and 262 "</s>" are special, 263 "<tool>" is not. No regex: a
// piece between added tokens is one word. The template puts <s> before the text.
inline nlohmann::json SmallTokenizer() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocab[TokenOfBytes(std::string(1, static_cast<char>(byte)))] = byte;
  }
  int next = 256;
  for (const char* token : {"ab", "abc", "cd", "aa", "aaaa"}) vocab[token] = next++;
  const auto added = [](int id, const char* content, bool special) {
    return nlohmann::json{{"id", id},          {"content", content}, {"single_word", false},
                          {"lstrip", false},   {"rstrip", false},    {"normalized", false},
                          {"special", special}};
  };
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens",
       {added(261, "<s>", true), added(262, "</s>", true), added(263, "<tool>", false)}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
          {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"pair", nlohmann::json::array()},
        {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {261}}, {"tokens", {"<s>"}}}}}}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "ab c", "c d", "a a", "aa aa"}}}}};
}

}  // namespace tandem::tokenizer
