// The `tandem` program: the table of its commands.
#include <vector>

#include "launcher/command/batch.h"
#include "launcher/command/bench.h"
#include "launcher/command/client.h"
#include "launcher/command/command_line.h"
#include "launcher/command/detokenize.h"
#include "launcher/command/doctor.h"
#include "launcher/command/eval.h"
#include "launcher/command/generate.h"
#include "launcher/command/plan.h"
#include "launcher/command/quantize.h"
#include "launcher/command/render.h"
#include "launcher/command/serve.h"
#include "launcher/command/tokenize.h"

namespace tandem::launcher {
namespace {

// In the order of `tandem --help`.
std::vector<Command> AddCommands(CLI::App& app) {
  return {
      MakeCommand(app, AddServe, RunServe),       MakeCommand(app, AddGenerate, RunGenerate),
      MakeCommand(app, AddClient, RunClient),     MakeCommand(app, AddBench, RunBench),
      MakeCommand(app, AddTokenize, RunTokenize), MakeCommand(app, AddDetokenize, RunDetokenize),
      MakeCommand(app, AddBatch, RunBatch),       MakeCommand(app, AddPlan, RunPlan),
      MakeCommand(app, AddRender, RunRender),     MakeCommand(app, AddQuantize, RunQuantize),
      MakeCommand(app, AddEval, RunEval),         MakeCommand(app, AddDoctor, RunDoctor),
  };
}

}  // namespace
}  // namespace tandem::launcher

int main(int argc, char** argv) {
  return tandem::launcher::RunCommandLine(tandem::launcher::AddCommands, argc, argv);
}
