// A tokenizer whose tokens are the bytes themselves, with <s> (256, put before a prompt) and </s>
// (257), both special.
#pragma once

#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "kernels/base/utf8.h"
#include "nlohmann/json.hpp"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::server {

inline std::string ByteTokenizerJson() {
  // The byte-level alphabet: printable bytes stand for themselves, the others for U+0100 on.
  nlohmann::json vocab;
  int32_t next = 256;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
    std::string spelled;
    AppendUtf8(printable ? byte : next++, &spelled);
    vocab[spelled] = byte;
  }
  const auto special = [](int id, const char* content) {
    return nlohmann::json{{"id", id},        {"content", content}, {"single_word", false},
                          {"lstrip", false}, {"rstrip", false},    {"normalized", false},
                          {"special", true}};
  };
  const nlohmann::json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  const auto sequence = [](const char* id) {
    return nlohmann::json{{"Sequence", {{"id", id}, {"type_id", 0}}}};
  };
  const nlohmann::json document = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", {special(256, "<s>"), special(257, "</s>")}},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", true},
        {"use_regex", false}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {bos, sequence("A")}},
        {"pair", {bos, sequence("A"), sequence("B")}},
        {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {256}}, {"tokens", {"<s>"}}}}}}}},
      {"decoder",
       {{"type", "ByteLevel"},
        {"add_prefix_space", true},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocab},
        {"merges", nlohmann::json::array()}}}};
  return document.dump();
}

inline std::unique_ptr<tokenizer::Tokenizer> MakeByteTokenizer() {
  auto made = tokenizer::Tokenizer::FromJson(ByteTokenizerJson(), "byte tokenizer");
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

}  // namespace tandem::server
