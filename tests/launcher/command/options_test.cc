#include "launcher/command/options.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

CommandLine Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "tandem");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

TEST(OptionsTest, Serve) {
  const CommandLine line = Parse({"serve", "folder", "--tp", "3", "--kv-memory", "2KiB"});
  ASSERT_TRUE(line.command.has_value()) << line.output;
  const auto& serve = std::get<ServeOptions>(*line.command);
  EXPECT_EQ(serve.model.model, "folder");
  EXPECT_EQ(serve.model.tp, 3);
  EXPECT_EQ(serve.model.kv_memory, 2048u);
  EXPECT_EQ(serve.listen, "127.0.0.1:50051");
  EXPECT_EQ(serve.drain_timeout, 30);
}

TEST(OptionsTest, GpusAddUpAsAsked) {
  EXPECT_EQ(std::get<ServeOptions>(*Parse({"serve", "m"}).command).model.gpu_collectives, "auto");
  for (const char* way : {"auto", "nccl", "peer", "staged"}) {
    const CommandLine line = Parse({"serve", "m", "--device", "cuda", "--gpu-collectives", way});
    ASSERT_TRUE(line.command.has_value()) << line.output;
    EXPECT_EQ(std::get<ServeOptions>(*line.command).model.gpu_collectives, way);
  }
  const CommandLine wrong = Parse({"serve", "m", "--gpu-collectives", "shm"});
  EXPECT_EQ(wrong.exit_code, 64);
  EXPECT_THAT(wrong.output, HasSubstr("--gpu-collectives"));
}

TEST(OptionsTest, RenderAndChat) {
  const CommandLine line = Parse({"render", "t.jinja", "--messages", "-"});
  ASSERT_TRUE(line.command.has_value()) << line.output;
  EXPECT_EQ(std::get<RenderOptions>(*line.command).model, "t.jinja");
  EXPECT_EQ(std::get<RenderOptions>(*line.command).messages, "-");
  EXPECT_EQ(Parse({"render", "t.jinja"}).exit_code, 64);

  const CommandLine chat = Parse({"client", "--chat", "Hello"});
  ASSERT_TRUE(chat.command.has_value()) << chat.output;
  EXPECT_TRUE(std::get<ClientOptions>(*chat.command).chat);
  EXPECT_EQ(Parse({"client", "--chat", "--prompt-ids", "1"}).exit_code, 64);
}

TEST(OptionsTest, Generate) {
  const CommandLine line = Parse({"generate", "m", "--prompt-ids", "1,2,3", "--max-tokens", "7",
                                  "--temperature", "0", "--json", "--logits", "f"});
  ASSERT_TRUE(line.command.has_value()) << line.output;
  const auto& generate = std::get<GenerateOptions>(*line.command);
  EXPECT_FALSE(generate.prompt.has_value());
  EXPECT_EQ(generate.prompt_ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(generate.sampling.max_tokens, 7);
  EXPECT_EQ(generate.sampling.temperature, 0.0);
  EXPECT_FALSE(generate.sampling.seed.has_value());
  EXPECT_TRUE(generate.json);
  EXPECT_EQ(generate.logits_file, "f");
}

TEST(OptionsTest, APromptMayBeStandardInputOrBeginWithADash) {
  CommandLine line = Parse({"generate", "m", "-"});
  ASSERT_TRUE(line.command.has_value()) << line.output;
  EXPECT_EQ(std::get<GenerateOptions>(*line.command).prompt, "-");
  line = Parse({"client", "--max-tokens", "2", "--", "-5 + 3"});
  ASSERT_TRUE(line.command.has_value()) << line.output;
  EXPECT_EQ(std::get<ClientOptions>(*line.command).prompt, "-5 + 3");
}

TEST(OptionsTest, MistakesAreOneLineAnd64) {
  const std::vector<std::vector<const char*>> lines = {
      {},
      {"fly"},
      {"serve"},
      {"serve", "m", "--tp", "0"},
      {"serve", "m", "--tp", "two"},
      {"serve", "m", "--bogus"},
      {"serve", "m", "--max-queue", "2000000000"},
      {"eval", "m", "--text", "f", "--trace", "t"},
      {"batch", "m", "--input", "i", "--output", "o", "--trace", "t"},
      {"generate", "m"},
      {"generate", "m", "text", "--prompt-ids", "1"},
      {"generate", "m", "--prompt-ids", "1,x"},
      {"client", "--timeout", "-1", "text"},
      {"tokenize"}};
  for (const auto& arguments : lines) {
    const CommandLine line = Parse(arguments);
    EXPECT_FALSE(line.command.has_value());
    EXPECT_EQ(line.exit_code, 64) << line.output;
    EXPECT_THAT(line.output, StartsWith("tandem: "));
    EXPECT_EQ(line.output.find('\n'), line.output.size() - 1) << line.output;
  }
}

TEST(OptionsTest, VersionAndHelpEndWithZero) {
  EXPECT_THAT(Parse({"--version"}).output, StartsWith("tandem "));
  EXPECT_EQ(Parse({"--version"}).exit_code, 0);
  EXPECT_THAT(Parse({"--help"}).output, HasSubstr("serve"));
  EXPECT_THAT(Parse({"generate", "--help"}).output, HasSubstr("--logits"));
  EXPECT_EQ(Parse({"generate", "--help"}).exit_code, 0);
}

}  // namespace
}  // namespace tandem::launcher
