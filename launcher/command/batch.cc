#include "launcher/command/batch.h"

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <optional>
#include <vector>

#include "kernels/base/status_macros.h"
#include "launcher/command/sampling_options.h"
#include "launcher/world/slurm_job.h"
#include "launcher/world/start.h"
#include "runtime/batch/batch_rank.h"
#include "runtime/batch/options.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/replicas.h"
#include "runtime/rank/given_world.h"
#include "runtime/rank/parent_process.h"

namespace tandem::launcher {
namespace {

batch::JobOptions JobOptionsOf(const BatchOptions& options) {
  return {.rank = RankOptionsOf(options.model),
          .tp = options.model.tp,
          .hosts = options.model.hosts,
          .start_timeout = options.model.start_timeout,
          .watch = LoadGuardOptionsOf(options.load_guard),
          .input = options.input,
          .output = options.output,
          .errors = options.errors,
          .on_error = options.on_error,
          .replicas = options.replicas,
          .progress_interval = options.progress_interval,
          .ordered = options.ordered,
          .time_limit = options.time_limit,
          .sampling = options.sampling};
}

const char* Environment(const char* name) { return std::getenv(name); }

}  // namespace

CLI::App* AddBatch(CLI::App& parent, BatchOptions* options) {
  CLI::App* app =
      parent.add_subcommand("batch", "Answer a file of prompts; can be stopped and resumed");
  AddModelOptions(app, &options->model);
  AddSpeculate(app, &options->model, "auto");
  AddLoadGuard(app, &options->load_guard);
  app->add_option("--input", options->input,
                  "Rows to answer: JSONL, plain or gzip; - reads standard input")
      ->required();
  app->add_option("--output", options->output, "File for results; the journal is OUTPUT.journal")
      ->required()
      ->check([](const std::string& path) {
        return path.empty() || path == "-" ? "expected a file, found '" + path + "'"
                                           : std::string();
      });
  app->add_option("--errors", options->errors,
                  "File for rows that failed (default: OUTPUT.errors)");
  app->add_option("--on-error", options->on_error, "At a row that cannot be run: stop, or skip it")
      ->check(CLI::IsMember({"stop", "skip"}))
      ->capture_default_str();
  app->add_option("--replicas", options->replicas,
                  "Number of worlds, of --tp ranks each, that answer the rows together (default: "
                  "1, or as many as --hosts, mpirun or srun have slots for)")
      ->check(CLI::Range(1, 1024));
  app->add_flag("--ordered", options->ordered, "Write results in the order of the input");
  app->add_option("--progress-interval", options->progress_interval,
                  "Seconds between lines of progress if stderr is not a terminal")
      ->check(CLI::Range(0.1, 1e9))
      ->capture_default_str();
  app->add_option(
         "--time-limit", options->time_limit,
         "Seconds after which the job stops, to be resumed (default: the end of the Slurm job)")
      ->check(CLI::Range(0.0, 1e9));
  AddSamplingOptions(app, &options->sampling);
  return app;
}

absl::StatusOr<int> RunBatch(const BatchOptions& options, char** argv) {
  const batch::JobOptions job = JobOptionsOf(options);
  std::string hosts = job.hosts;
  int tp = job.tp;
  WorldOptions world;
  world.pass_stdin = options.input == "-";
  world.relay_stdout = true;
  world.drains = true;
  world.resumable = true;
  if (const std::optional<batch::ReplicaRole> role = batch::ReplicaRoleOfThisProcess()) {
    hosts = role->hosts;
  } else {
    TANDEM_ASSIGN_OR_RETURN(const std::optional<int> joined, rank::FindWorld(Environment));
    if (IsFirstRank(Environment)) LearnSlurmEnd();
    if (joined.has_value() && !rank::StartedByLauncher())
      tp = 0;  // the ranks divide the world into replicas
    if (!joined.has_value() && !rank::StartedByLauncher()) {
      TANDEM_ASSIGN_OR_RETURN(const std::vector<batch::HostedReplica> replicas,
                              batch::ReplicasOf(job));
      if (replicas.size() > 1) return batch::RunReplicas(job, replicas, argv);
    }
    batch::PassBarColumns();
  }
  return RunRankOrWorld({.tp = tp, .hosts = hosts, .world = world}, argv,
                        [&] { return batch::RunBatchRank(job); });
}

}  // namespace tandem::launcher
