// The program's command line as a whole.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launcher/command/command.h"

namespace tandem::launcher {

// Without commands.
std::unique_ptr<CLI::App> MakeApp();

// What to do after parsing: run the command, or print and end.
struct ParseResult {
  bool run = false;
  std::string output;  // help or version; or a mistake in one line, for stderr
  int exit_code = 0;   // of a mistake kExitUsage
};
ParseResult ParseArguments(CLI::App& app, int argc, const char* const* argv);

// Parses the arguments with the commands that `add_commands` adds, runs the one that was given,
// and reports its error. Returns the exit code.
int RunCommandLine(std::vector<Command> (*add_commands)(CLI::App&), int argc, char** argv);

}  // namespace tandem::launcher
