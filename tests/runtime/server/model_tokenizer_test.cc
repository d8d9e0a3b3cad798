#include "runtime/server/model_tokenizer.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/runtime/server/byte_tokenizer.h"

namespace tandem::server {
namespace {

using Ids = std::vector<int32_t>;
constexpr int32_t kBegin = 256;  // "<s>"

class ModelTokenizer : public testing::Test {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/model_tokenizer_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(path_);
    Write("config.json", "{}");
  }
  void TearDown() override { std::filesystem::remove_all(path_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(path_ + "/" + name) << text;
  }
  // The ids of "a" with special tokens; `template_adds` leaves the post-processor there.
  Ids Encode(const std::string& config, bool template_adds = false) {
    nlohmann::json file = nlohmann::json::parse(ByteTokenizerJson());
    if (!template_adds) file["post_processor"] = nullptr;
    Write("tokenizer.json", file.dump());
    Write("tokenizer_config.json", config);
    const auto folder = loader::ModelFolder::Open(path_);
    EXPECT_TRUE(folder.ok()) << folder.status();
    const auto tokenizer = LoadTokenizer(*folder);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ(*(*tokenizer)->Encode("a", false), Ids{'a'});
    return *(*tokenizer)->Encode("a", true);
  }

  std::string path_;
};

TEST_F(ModelTokenizer, AddsTheBosThatTheConfigAsksFor) {
  EXPECT_EQ(Encode(R"({"add_bos_token": true, "bos_token": "<s>"})"), (Ids{kBegin, 'a'}));
  EXPECT_EQ(Encode(R"({"add_bos_token": true, "tokenizer_class": "LlamaTokenizerFast",
                       "bos_token": {"__type": "AddedToken", "content": "<s>"}})"),
            (Ids{kBegin, 'a'}));
}

TEST_F(ModelTokenizer, AddsItOnce) {
  EXPECT_EQ(Encode(R"({"add_bos_token": true, "bos_token": "<s>"})", true), (Ids{kBegin, 'a'}));
}

TEST_F(ModelTokenizer, LeavesThePostProcessorAloneOtherwise) {
  for (const char* config :
       {R"({})", R"({"add_bos_token": false, "bos_token": "<s>"})", R"({"bos_token": "<s>"})",
        R"({"add_bos_token": true})", R"({"add_bos_token": true, "bos_token": "<none>"})",
        R"({"add_bos_token": true, "bos_token": "<s>", "tokenizer_class": "Qwen2Tokenizer"})"}) {
    EXPECT_EQ(Encode(config), Ids{'a'}) << config;
    EXPECT_EQ(Encode(config, true), (Ids{kBegin, 'a'})) << config;
  }
}

TEST_F(ModelTokenizer, AFolderMayHaveNone) {
  const auto folder = loader::ModelFolder::Open(path_);
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto tokenizer = LoadTokenizer(*folder);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*tokenizer, nullptr);
}

}  // namespace
}  // namespace tandem::server
