#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launcher/command/batch.h"
#include "launcher/command/client.h"
#include "launcher/command/command_line.h"
#include "launcher/command/eval.h"
#include "launcher/command/generate.h"
#include "launcher/command/render.h"
#include "launcher/command/serve.h"
#include "launcher/command/tokenize.h"

namespace tandem::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

ParseResult ParseWith(CLI::App& app, std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "tandem");
  return ParseArguments(app, static_cast<int>(arguments.size()), arguments.data());
}

template <typename Options>
struct Parsed : ParseResult {
  Options options;
};

// Parses a line with one command.
template <typename Options>
Parsed<Options> Parse(CLI::App* (*add)(CLI::App&, Options*), std::vector<const char*> arguments) {
  const auto app = MakeApp();
  Options options;
  add(*app, &options);
  const ParseResult result = ParseWith(*app, std::move(arguments));
  return {result, options};
}

std::vector<Command> AddSeveral(CLI::App& app) {
  return {MakeCommand(app, AddServe, RunServe),       MakeCommand(app, AddGenerate, RunGenerate),
          MakeCommand(app, AddClient, RunClient),     MakeCommand(app, AddBatch, RunBatch),
          MakeCommand(app, AddTokenize, RunTokenize), MakeCommand(app, AddEval, RunEval)};
}

ParseResult ParseAny(std::vector<const char*> arguments) {
  const auto app = MakeApp();
  const std::vector<Command> commands = AddSeveral(*app);
  return ParseWith(*app, std::move(arguments));
}

TEST(OptionsTest, Serve) {
  const auto serve = Parse(AddServe, {"serve", "folder", "--tp", "3", "--kv-memory", "2KiB"});
  ASSERT_TRUE(serve.run) << serve.output;
  EXPECT_EQ(serve.options.model.model, "folder");
  EXPECT_EQ(serve.options.model.tp, 3);
  EXPECT_EQ(serve.options.model.kv_memory, 2048u);
  EXPECT_EQ(serve.options.listen, "127.0.0.1:50051");
  EXPECT_EQ(serve.options.drain_timeout, 30);
}

TEST(OptionsTest, GpuCollectivesTakeEachTransportAndNoOther) {
  EXPECT_EQ(Parse(AddServe, {"serve", "m"}).options.model.gpu_collectives, "auto");
  for (const char* transport : {"auto", "nccl", "peer", "staged"}) {
    const auto serve =
        Parse(AddServe, {"serve", "m", "--device", "cuda", "--gpu-collectives", transport});
    ASSERT_TRUE(serve.run) << serve.output;
    EXPECT_EQ(serve.options.model.gpu_collectives, transport);
  }
  const auto wrong = Parse(AddServe, {"serve", "m", "--gpu-collectives", "shm"});
  EXPECT_EQ(wrong.exit_code, 64);
  EXPECT_THAT(wrong.output, HasSubstr("--gpu-collectives"));
}

TEST(OptionsTest, TheOldNameOfGpuCollectivesStillWorks) {
  const auto serve = Parse(AddServe, {"serve", "m", "--card-collectives", "peer"});
  ASSERT_TRUE(serve.run) << serve.output;
  EXPECT_EQ(serve.options.model.gpu_collectives, "peer");
}

TEST(OptionsTest, RenderAndChat) {
  const auto render = Parse(AddRender, {"render", "t.jinja", "--messages", "-"});
  ASSERT_TRUE(render.run) << render.output;
  EXPECT_EQ(render.options.model, "t.jinja");
  EXPECT_EQ(render.options.messages, "-");
  EXPECT_EQ(Parse(AddRender, {"render", "t.jinja"}).exit_code, 64);

  const auto chat = Parse(AddClient, {"client", "--chat", "Hello"});
  ASSERT_TRUE(chat.run) << chat.output;
  EXPECT_TRUE(chat.options.chat);
  EXPECT_EQ(Parse(AddClient, {"client", "--chat", "--prompt-ids", "1"}).exit_code, 64);
}

TEST(OptionsTest, Generate) {
  const auto generate =
      Parse(AddGenerate, {"generate", "m", "--prompt-ids", "1,2,3", "--max-tokens", "7",
                          "--temperature", "0", "--json", "--logits", "f"});
  ASSERT_TRUE(generate.run) << generate.output;
  const GenerateOptions& options = generate.options;
  EXPECT_FALSE(options.prompt.text.has_value());
  EXPECT_EQ(options.prompt.ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(options.sampling.max_tokens, 7);
  EXPECT_EQ(options.sampling.temperature, 0.0);
  EXPECT_FALSE(options.sampling.seed.has_value());
  EXPECT_TRUE(options.json);
  EXPECT_EQ(options.logits_file, "f");
}

TEST(OptionsTest, APromptMayBeStandardInputOrBeginWithADash) {
  const auto generate = Parse(AddGenerate, {"generate", "m", "-"});
  ASSERT_TRUE(generate.run) << generate.output;
  EXPECT_EQ(generate.options.prompt.text, "-");
  const auto client = Parse(AddClient, {"client", "--max-tokens", "2", "--", "-5 + 3"});
  ASSERT_TRUE(client.run) << client.output;
  EXPECT_EQ(client.options.prompt.text, "-5 + 3");
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
      {"serve", "m", "--kv-memory", "-1GiB"},
      {"serve", "m", "--weights", "stream"},
      {"eval", "m", "--text", "f", "--trace", "t"},
      {"batch", "m", "--input", "i", "--output", "o", "--trace", "t"},
      {"generate", "m"},
      {"generate", "m", "1", "--weights", "stream"},
      {"generate", "m", "text", "--prompt-ids", "1"},
      {"generate", "m", "--prompt-ids", "1,x"},
      {"client"},
      {"client", "--timeout", "-1", "text"},
      {"tokenize"}};
  for (const auto& arguments : lines) {
    const ParseResult result = ParseAny(arguments);
    EXPECT_FALSE(result.run);
    EXPECT_EQ(result.exit_code, 64) << result.output;
    EXPECT_THAT(result.output, StartsWith("tandem: "));
    EXPECT_EQ(result.output.find('\n'), result.output.size() - 1) << result.output;
  }
}

TEST(OptionsTest, VersionAndHelpEndWithZero) {
  EXPECT_THAT(ParseAny({"--version"}).output, StartsWith("tandem "));
  EXPECT_EQ(ParseAny({"--version"}).exit_code, 0);
  EXPECT_THAT(ParseAny({"--help"}).output, HasSubstr("serve"));
  EXPECT_THAT(ParseAny({"generate", "--help"}).output, HasSubstr("--logits"));
  EXPECT_EQ(ParseAny({"generate", "--help"}).exit_code, 0);
}

struct NoOptions {};

CLI::App* AddFine(CLI::App& parent, NoOptions*) { return parent.add_subcommand("fine", ""); }
CLI::App* AddBroken(CLI::App& parent, NoOptions*) { return parent.add_subcommand("broken", ""); }
absl::StatusOr<int> RunFine(const NoOptions&, char** argv) { return argv[1] == nullptr ? 1 : 7; }
absl::StatusOr<int> RunBroken(const NoOptions&, char**) { return absl::NotFoundError("no file"); }

std::vector<Command> AddFineAndBroken(CLI::App& app) {
  return {MakeCommand(app, AddFine, RunFine), MakeCommand(app, AddBroken, RunBroken)};
}

TEST(CommandLineTest, RunsTheCommandThatWasGiven) {
  char program[] = "tandem", fine[] = "fine", broken[] = "broken";
  char* fine_line[] = {program, fine, nullptr};
  EXPECT_EQ(RunCommandLine(AddFineAndBroken, 2, fine_line), 7);

  char* broken_line[] = {program, broken, nullptr};
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(RunCommandLine(AddFineAndBroken, 2, broken_line), 65);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "tandem: no file\n");
}

}  // namespace
}  // namespace tandem::launcher
