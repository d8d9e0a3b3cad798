// The `tandem` command. Decides whether this process is a rank or starts ranks; everything is done
// elsewhere.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <variant>
#include <vector>

#include "kernels/base/status_macros.h"
#include "launcher/command/client.h"
#include "launcher/command/doctor.h"
#include "launcher/command/eval.h"
#include "launcher/command/options.h"
#include "launcher/command/plan.h"
#include "launcher/command/quantize.h"
#include "launcher/command/render.h"
#include "launcher/command/runtime_options.h"
#include "launcher/command/serve.h"
#include "launcher/command/tokenize.h"
#include "launcher/world/slurm_job.h"
#include "launcher/world/start.h"
#include "runtime/batch/batch_rank.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/replicas.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/parent_process.h"

namespace tandem::launcher {
namespace {

const char* Environment(const char* name) { return std::getenv(name); }

template <typename Rank>
absl::StatusOr<int> RunModel(const ModelOptions& model, const WorldOptions& world,
                             bool alone_in_process, char** argv, Rank rank) {
  return RunRankOrWorld(
      {.tp = model.tp, .hosts = model.hosts, .alone_in_process = alone_in_process, .world = world},
      argv, rank);
}

absl::StatusOr<int> RunBatch(const BatchOptions& options, char** argv) {
  const batch::JobOptions job = JobOptionsOf(options);
  ModelOptions model = options.model;
  WorldOptions world;
  world.pass_stdin = options.input == "-";
  world.relay_stdout = true;
  world.drains = true;
  world.resumable = true;
  if (const std::optional<batch::ReplicaRole> role = batch::ReplicaRoleOfThisProcess()) {
    model.hosts = role->hosts;
  } else {
    TANDEM_ASSIGN_OR_RETURN(const std::optional<int> joined, rank::FindWorld(Environment));
    if (IsFirstRank(Environment)) LearnSlurmEnd();
    if (joined.has_value() && !rank::StartedByLauncher())
      model.tp = 0;  // its ranks cut it themselves
    if (!joined.has_value() && !rank::StartedByLauncher()) {
      TANDEM_ASSIGN_OR_RETURN(const std::vector<batch::HostedReplica> replicas,
                              batch::ReplicasOf(job));
      if (replicas.size() > 1) return batch::RunReplicas(job, replicas, argv);
    }
    batch::PassBarOn();
  }
  return RunModel(model, world, /*alone_in_process=*/true, argv,
                  [&] { return batch::RunBatchRank(job); });
}

int Main(int argc, char** argv) {
  const CommandLine line = ParseCommandLine(argc, argv);
  if (!line.command.has_value()) {
    std::fputs(line.output.c_str(), line.exit_code == 0 ? stdout : stderr);
    return line.exit_code;
  }
  absl::StatusOr<int> code = 0;
  if (const auto* serve = std::get_if<ServeOptions>(&*line.command)) {
    WorldOptions world;
    world.drains = true;
    world.drain_timeout =
        std::chrono::milliseconds(static_cast<int64_t>(serve->drain_timeout * 1e3));
    world.max_restarts = serve->max_restarts;
    code = RunModel(serve->model, world, /*alone_in_process=*/false, argv,
                    [&] { return RunServeRank(*serve); });
  } else if (const auto* generate = std::get_if<GenerateOptions>(&*line.command)) {
    if (fcntl(STDOUT_FILENO, F_GETFD) < 0) {
      return rank::ReportError(
          rank::OutputError("stdout: is closed, the answer has nowhere to go"));
    }
    WorldOptions world;
    world.pass_stdin = generate->prompt == "-";
    world.relay_stdout = true;
    code = RunModel(generate->model, world, /*alone_in_process=*/true, argv,
                    [&] { return RunGenerateRank(*generate); });
  } else if (const auto* bench = std::get_if<BenchOptions>(&*line.command)) {
    if (fcntl(STDOUT_FILENO, F_GETFD) < 0) {
      return rank::ReportError(
          rank::OutputError("stdout: is closed, the figures have nowhere to go"));
    }
    WorldOptions world;
    world.pass_stdin = bench->paced;
    world.relay_stdout = true;
    code = RunModel(bench->model, world, /*alone_in_process=*/true, argv,
                    [&] { return RunBenchRank(*bench); });
  } else if (const auto* batch = std::get_if<BatchOptions>(&*line.command)) {
    code = RunBatch(*batch, argv);
  } else if (const auto* eval = std::get_if<EvalOptions>(&*line.command)) {
    WorldOptions world;
    world.relay_stdout = true;
    code = RunModel(eval->model, world, /*alone_in_process=*/true, argv,
                    [&] { return RunEvalRank(*eval); });
  } else if (const auto* doctor = std::get_if<DoctorOptions>(&*line.command)) {
    WorldOptions world;
    world.relay_stdout = true;
    code = RunModel(doctor->model, world, /*alone_in_process=*/true, argv,
                    [&] { return RunDoctorRank(*doctor); });
  } else if (const auto* quantize = std::get_if<QuantizeOptions>(&*line.command)) {
    code = RunQuantize(*quantize);
  } else if (const auto* client = std::get_if<ClientOptions>(&*line.command)) {
    code = RunClient(*client);
  } else if (const auto* tokenize = std::get_if<TokenizeOptions>(&*line.command)) {
    code = RunTokenize(*tokenize, std::cin, std::cout);
  } else if (const auto* plan = std::get_if<PlanOptions>(&*line.command)) {
    code = RunPlan(*plan, std::cout);
  } else if (const auto* render = std::get_if<RenderOptions>(&*line.command)) {
    code = RunRender(*render, std::cin, std::cout);
  } else {
    code = RunDetokenize(std::get<DetokenizeOptions>(*line.command), std::cin, std::cout);
  }
  return code.ok() ? *code : rank::ReportError(code.status());
}

}  // namespace
}  // namespace tandem::launcher

int main(int argc, char** argv) { return tandem::launcher::Main(argc, argv); }
