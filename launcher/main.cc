// The `tandem` command. Decides whether this process is a rank or starts ranks; everything is done
// elsewhere.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
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
#include "launcher/world/mpirun.h"
#include "launcher/world/slurm_job.h"
#include "launcher/world/supervisor.h"
#include "runtime/batch/batch_rank.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/replicas.h"
#include "runtime/rank/cpu_binding.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/parent_process.h"

namespace tandem::launcher {
namespace {

absl::StatusOr<std::string> OwnPath() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0 || length == static_cast<ssize_t>(sizeof(path))) {
    return absl::InternalError("cannot find this program's own path");
  }
  return std::string(path, static_cast<size_t>(length));
}

const char* Environment(const char* name) { return std::getenv(name); }

// Runs `rank` here, if this process is a rank or the world is one without supervision; else
// starts the world. Returns the exit code.
template <typename Rank>
absl::StatusOr<int> RunModel(const ModelOptions& model, const WorldOptions& world_options,
                             bool alone_in_process, char** argv, Rank rank) {
  TANDEM_ASSIGN_OR_RETURN(const std::optional<int> world, rank::FindWorld(Environment));
  if (world.has_value() || rank::StartedByLauncher()) {
    TANDEM_RETURN_IF_ERROR(rank::DieWithParent());
    const int size = world.value_or(1);
    if (!model.hosts.empty() && !rank::StartedByLauncher()) {
      return absl::InvalidArgumentError(
          "--hosts: found in a process that mpirun or srun started, expected without them");
    }
    if (model.tp != 0 && model.tp != size) {
      // Every rank sees it; one says it.
      const char* own_rank = std::getenv("PMIX_RANK");
      if (own_rank != nullptr && std::string(own_rank) != "0") return rank::kExitConfig;
      return absl::FailedPreconditionError(absl::StrCat("--tp ", model.tp, ", but this world has ",
                                                        size, size == 1 ? " rank" : " ranks"));
    }
    return rank();
  }
  const std::vector<int> cpus = rank::AllowedCpus();
  const absl::StatusOr<rank::Topology> topology = rank::Topology::Load();
  absl::StatusOr<std::string> mpirun = FindProgram("mpirun", Environment);
  std::vector<rank::HostSlots> hosts;
  if (!model.hosts.empty()) {
    TANDEM_ASSIGN_OR_RETURN(hosts, rank::ParseHosts(model.hosts));
  }
  int ranks = model.tp;
  for (const rank::HostSlots& host : hosts) ranks += model.tp == 0 ? host.slots : 0;
  if (ranks == 0) {
    ranks = topology.ok() && mpirun.ok() ? topology->MemorySockets(cpus) : 1;
    if (ranks > 1)
      std::fprintf(stderr, "tandem: %d ranks, one for each socket (see --tp)\n", ranks);
  }
  if (ranks == 1 && hosts.empty() && alone_in_process) return rank();

  TANDEM_ASSIGN_OR_RETURN(const std::string self, OwnPath());
  std::vector<std::string> command = {self};
  for (char** argument = argv + 1; *argument != nullptr; ++argument) command.push_back(*argument);
  WorldOptions options = world_options;
  options.through_mpirun = ranks > 1 || !hosts.empty();
  if (options.through_mpirun) {
    TANDEM_RETURN_IF_ERROR(mpirun.status());
    command = MpirunCommand(*mpirun, geteuid() == 0, ranks, hosts, ExportedVariables(environ),
                            command, Environment);
  }
  return RunWorld(command, options);
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
    const char* own_rank = std::getenv("PMIX_RANK");
    if (own_rank == nullptr || std::strcmp(own_rank, "0") == 0) LearnSlurmEnd();
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
