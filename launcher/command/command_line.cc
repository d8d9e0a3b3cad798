#include "launcher/command/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/rank/exit_code.h"

namespace tandem::launcher {

std::unique_ptr<CLI::App> MakeApp() {
  auto app = std::make_unique<CLI::App>("Serves one language model on several ranks (processes).",
                                        "tandem");
  app->set_version_flag("--version", std::string("tandem " TANDEM_VERSION));
  app->require_subcommand(1);
  return app;
}

ParseResult ParseArguments(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    for (const CLI::App* command : app.get_subcommands()) return {.output = command->help()};
    return {.output = app.help()};
  } catch (const CLI::CallForVersion& version) {
    return {.output = absl::StrCat(version.what(), "\n")};
  } catch (const CLI::ParseError& error) {
    std::string line = error.what();
    std::replace(line.begin(), line.end(), '\n', ' ');
    return {.output = absl::StrCat("tandem: ", line, " (see tandem --help)\n"),
            .exit_code = rank::kExitUsage};
  }
  return {.run = true};
}

int RunCommandLine(std::vector<Command> (*add_commands)(CLI::App&), int argc, char** argv) {
  const std::unique_ptr<CLI::App> app = MakeApp();
  const std::vector<Command> commands = add_commands(*app);
  const ParseResult parsed = ParseArguments(*app, argc, argv);
  if (!parsed.run) {
    std::fputs(parsed.output.c_str(), parsed.exit_code == 0 ? stdout : stderr);
    return parsed.exit_code;
  }
  const auto command = std::find_if(commands.begin(), commands.end(), [](const Command& command) {
    return command.options->parsed();
  });
  TANDEM_CHECK(command != commands.end());  // the app requires one
  const absl::StatusOr<int> code = command->run(argv);
  return code.ok() ? *code : rank::ReportError(code.status());
}

}  // namespace tandem::launcher
