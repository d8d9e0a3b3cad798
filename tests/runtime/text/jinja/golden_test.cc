// Renders what Jinja2 itself rendered (tests/golden/make_template_golden.py) and compares.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/text/jinja/template.h"
#include "tests/support/source_path.h"

namespace tandem::jinja {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

std::string ReadFile(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

Json Golden(const std::string& name) {
  // TANDEM_TEMPLATE_GOLDEN: a folder of freshly made cases to compare with once.
  const char* other = std::getenv("TANDEM_TEMPLATE_GOLDEN");
  const std::string folder = other != nullptr ? other : SourcePath("tests/golden/templates");
  return Json::parse(ReadFile(fs::path(folder) / name));
}

// The moment that the script gives to strftime_now.
RenderOptions Options() {
  RenderOptions options;
  options.time_zone = absl::UTCTimeZone();
  options.now = absl::FromCivil(absl::CivilSecond(2025, 3, 7, 9, 5, 3), options.time_zone) +
                absl::Microseconds(42);
  return options;
}

absl::StatusOr<std::string> RenderText(const std::string& source, const Json& variables) {
  absl::StatusOr<Template> parsed = Template::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(variables, Options());
}

void Check(const std::string& label, const absl::StatusOr<std::string>& got, const Json& expected) {
  if (expected.is_null()) {
    EXPECT_FALSE(got.ok()) << label << "\nJinja2 refuses it, rendered here: " << got.value_or("");
  } else if (!got.ok()) {
    ADD_FAILURE() << label << "\n" << got.status() << "\nexpected: " << expected;
  } else {
    EXPECT_EQ(*got, expected.get<std::string>()) << label;
  }
}

void CheckSnippets(const std::string& name) {
  const Json golden = Golden(name);
  for (const Json& one : golden["cases"]) {
    const std::string source = one["template"];
    Check(source, RenderText(source, golden["variables"]), one["expected"]);
  }
}

TEST(TemplateGolden, Snippets) { CheckSnippets("snippets.json"); }
TEST(TemplateGolden, RandomExpressions) { CheckSnippets("random.json"); }

void CheckChats(const Json& golden, const std::function<std::string(const std::string&)>& source) {
  std::string loaded;
  absl::StatusOr<Template> parsed = absl::NotFoundError("");
  for (const Json& one : golden["cases"]) {
    const std::string name = one[0], conversation = one[1];
    if (name != loaded) {
      parsed = Template::Parse(source(name));
      ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.status();
      loaded = name;
    }
    Json variables = golden["special"];
    variables["messages"] = golden["conversations"][conversation];
    variables["tools"] = nullptr;
    variables["documents"] = nullptr;
    variables["add_generation_prompt"] = true;
    for (const auto& [key, value] : golden["options"][one[2].get<size_t>()].items()) {
      variables[key] = value;
    }
    Check(name + " / " + conversation + " / " + one[2].dump(), parsed->Render(variables, Options()),
          one[3]);
  }
}

TEST(TemplateGolden, OwnChatTemplates) {
  const Json golden = Golden("chats.json");
  CheckChats(golden, [&](const std::string& name) { return golden["templates"][name]; });
}

TEST(TemplateGolden, ModelChatTemplates) {
  const fs::path folder = SharedPath("chat_templates");
  if (folder.empty()) GTEST_SKIP() << "no model templates beside the project";
  CheckChats(Golden("model_chats.json"),
             [&](const std::string& name) { return ReadFile(folder / name); });
}

}  // namespace
}  // namespace tandem::jinja
