// What each command of the program consists of.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct Command {
  const CLI::App* options;  // its subcommand, which belongs to the app that it was added to
  // Runs the command with the options that were parsed. Returns the exit code
  // (runtime/rank/exit_code.h). `argv` is the program's own: commands that start ranks start them
  // with it.
  std::function<absl::StatusOr<int>(char** argv)> run;
};

// `add` adds the subcommand and binds its options to the struct; `run` gets the struct.
template <typename Options>
Command MakeCommand(CLI::App& parent, CLI::App* (*add)(CLI::App&, Options*),
                    absl::StatusOr<int> (*run)(const Options&, char**)) {
  const auto options = std::make_shared<Options>();
  return {add(parent, options.get()), [options, run](char** argv) { return run(*options, argv); }};
}

}  // namespace tandem::launcher
