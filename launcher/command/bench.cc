#include "launcher/command/bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "launcher/command/bench_front.h"
#include "launcher/command/bench_report.h"
#include "launcher/command/option_checks.h"
#include "launcher/command/output.h"
#include "launcher/world/start.h"
#include "parallel/all_gather.h"
#include "runtime/model/kv_cache.h"
#include "runtime/plan/step_work.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/roofline.h"
#include "runtime/rank/start.h"

namespace tandem::launcher {
namespace {

// Between runs all ranks leave their step loop together and measure the machine. What rank 0 asks
// the others to do when it has ended their loop:
enum class Next : int { kNone, kMeasure, kEnd };  // kNone: what the others send

std::string FormatName(const kernels::LinearSpec& spec) {
  if (!spec.quant.has_value()) {
    return absl::AsciiStrToLower(std::string(kernels::DTypeName(spec.dtype)));
  }
  return absl::StrCat(spec.quant->code_type == kernels::CodeType::kFloat8 ? "fp" : "int",
                      spec.quant->bits, " in groups of ", spec.quant->group_size);
}

std::vector<BenchPoint> PointsOf(const BenchOptions& options) {
  std::vector<BenchPoint> points;
  for (const BenchCell& cell : options.cells) {
    points.push_back({cell.phase == "prefill" ? BenchPhase::kPrefill : BenchPhase::kDecode,
                      cell.batch, cell.context});
  }
  if (!points.empty()) return points;
  for (const BenchPhase phase : {BenchPhase::kPrefill, BenchPhase::kDecode}) {
    if (options.phase != "all" && options.phase != PhaseName(phase)) continue;
    for (const int64_t context : options.context) {
      for (const int64_t batch : options.batch) points.push_back({phase, batch, context});
    }
  }
  return points;
}

absl::Status CheckRoom(const rank::RankRuntime& runtime, const BenchOptions& options,
                       const std::vector<BenchPoint>& points) {
  for (const BenchPoint& point : points) {
    const int64_t extra =
        point.phase == BenchPhase::kDecode
            ? BenchFront::ExtraTokens(options.decode_tokens,
                                      RankOptionsOf(options.model).speculation.max_drafts)
            : 16;
    const int64_t length = point.context + extra;
    if (length > runtime.max_model_len()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--context: found ", point.context, ", expected at most ",
          runtime.max_model_len() - extra, ": ", extra,
          " more are generated, and the context is limited to ", runtime.max_model_len()));
    }
    const int64_t room = runtime.num_blocks() * model::kBlockSize;
    if (length * point.batch > room) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "bench: ", point.batch, " sequences of ", length, " tokens, but the KV cache holds ",
          room, "; give a smaller --batch or --context, or more --kv-memory"));
    }
  }
  return absl::OkStatus();
}

// --paced: a line on standard input starts a round.
absl::Status WaitForLine(int64_t round, int64_t rounds) {
  std::cerr << "bench: waiting for a line on standard input" << std::endl;
  std::string line;
  if (std::getline(std::cin, line)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--paced: standard input ended after ", round,
                                                 " rounds, expected a line for each of ", rounds));
}

// On rank 0: all rounds.
absl::Status RunRounds(rank::RankRuntime& runtime, const BenchOptions& options,
                       const plan::ModelWork& work, kernels::MachineProbe& probe,
                       BenchReport& report) {
  int64_t max_batch = 0;
  for (const BenchPoint& point : report.points) max_batch = std::max(max_batch, point.batch);
  TANDEM_ASSIGN_OR_RETURN(const auto front,
                          BenchFront::Start(runtime, work, max_batch, options.decode_tokens,
                                            RankOptionsOf(options.model).speculation));
  const auto measure = [&]() -> absl::StatusOr<plan::Ceilings> {
    TANDEM_RETURN_IF_ERROR(runtime.runner().Shutdown());
    TANDEM_RETURN_IF_ERROR(AllGather(runtime.communicator(), Next::kMeasure).status());
    return rank::MeasureCeilings(runtime, probe);
  };
  report.streamed = work.streamed;
  report.runs.resize(report.points.size());
  const int64_t rounds = options.warmup + options.repeats;
  for (int64_t round = 0; round < rounds; ++round) {
    if (options.paced) TANDEM_RETURN_IF_ERROR(WaitForLine(round, rounds));
    // Points take turns, so that a machine that changes its speed changes it for all points, and
    // each run stands between two measurements of the machine's ceilings.
    TANDEM_ASSIGN_OR_RETURN(plan::Ceilings before, measure());
    if (round >= options.warmup) report.ceilings.push_back(before);
    for (size_t i = 0; i < report.points.size(); ++i) {
      TANDEM_ASSIGN_OR_RETURN(BenchRun run, front->Run(report.points[i]));
      TANDEM_ASSIGN_OR_RETURN(const plan::Ceilings after, measure());
      run.ceilings = {.read = (before.read + after.read) / 2,
                      .peak = (before.peak + after.peak) / 2,
                      .stream = (before.stream + after.stream) / 2};
      before = after;
      if (round < options.warmup) continue;
      report.ceilings.push_back(after);
      report.runs[i].push_back(run);
    }
    if (options.paced) std::cerr << "bench: round " << round + 1 << " of " << rounds << std::endl;
  }
  TANDEM_RETURN_IF_ERROR(runtime.runner().Shutdown());
  return AllGather(runtime.communicator(), Next::kEnd).status();
}

// On the other ranks.
absl::Status FollowRounds(rank::RankRuntime& runtime, kernels::MachineProbe& probe) {
  for (;;) {
    TANDEM_RETURN_IF_ERROR(runtime.Work());
    TANDEM_ASSIGN_OR_RETURN(const std::vector<Next> all,
                            AllGather(runtime.communicator(), Next::kNone));
    if (all[0] == Next::kEnd) return absl::OkStatus();
    TANDEM_RETURN_IF_ERROR(rank::MeasureCeilings(runtime, probe).status());
  }
}

absl::Status Print(const BenchOptions& options, const BenchReport& report) {
  if (!options.plot_file.empty()) {
    TANDEM_RETURN_IF_ERROR(WriteFile("--plot", options.plot_file, BenchChart(report)));
  }
  return WriteStdout(options.json ? BenchJson(report) + "\n" : BenchTable(report));
}

// Fails early where rank 0 could not write the chart at the end.
absl::Status CheckPlotFile(const BenchOptions& options) {
  if (options.plot_file.empty() || std::ofstream(options.plot_file)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--plot ", options.plot_file, ": cannot be written"));
}

// With room for the contexts of all points at once: later rounds find them in the prefix cache.
rank::RankOptions BenchRankOptions(const BenchOptions& options,
                                   const std::vector<BenchPoint>& points) {
  rank::RankOptions rank = RankOptionsOf(options.model);
  rank.used_context = 0;
  rank.max_num_seqs = 0;
  for (const BenchPoint& point : points) {
    rank.max_num_seqs += point.batch;
    rank.used_context = std::max(
        rank.used_context, point.context + BenchFront::ExtraTokens(options.decode_tokens,
                                                                   rank.speculation.max_drafts));
  }
  return rank;
}

// All but the measurements.
BenchReport StartReport(const BenchOptions& options, rank::RankRuntime& runtime,
                        const kernels::MachineProbe& probe) {
  const kernels::LinearSpec spec = runtime.decoder().linear_spec();
  BenchReport report;
  report.model = options.model.model;
  report.weights = FormatName(spec);
  report.kv_dtype = std::string(kernels::KvDTypeName(runtime.kv_dtype()));
  report.isa = runtime.on_gpu() ? "cuda" : kernels::IsaInUse(options.model.isa);
  report.peak_instruction = probe.DotInstruction(rank::DotTypeOf(spec));
  report.tp = runtime.tp();
  report.threads = runtime.binding().threads;
  return report;
}

// On a loaded world: measures, and gathers what the ranks report.
rank::RankOutcome Measure(parallel::MpiWorld* world, rank::RankRuntime& runtime,
                          const BenchOptions& options, kernels::MachineProbe& probe,
                          BenchReport& report) {
  const auto work = rank::WorkOf(runtime);
  if (!work.ok()) return rank::AbortWorld(world, work.status());
  const absl::Status status = runtime.rank() == 0
                                  ? RunRounds(runtime, options, *work, probe, report)
                                  : FollowRounds(runtime, probe);
  if (!status.ok()) return rank::AbortWorld(world, status);
  const auto reports = runtime.GatherReports();
  if (!reports.ok()) return rank::AbortWorld(world, reports.status());
  for (const rank::RankReport& mine : *reports) {
    report.ranks.push_back({.planned_bytes = mine.planned_bytes, .peak_memory = mine.peak_memory});
  }
  return rank::Done();
}

rank::RankOutcome Bench(rank::JoinedWorld& joined, const BenchOptions& options) {
  parallel::MpiWorld* const world = joined.world.get();
  parallel::ControlGroup& communicator = *joined.communicator;
  const absl::Status writable = joined.rank() == 0 ? CheckPlotFile(options) : absl::OkStatus();
  if (const absl::Status agreed = AgreeOnStatus(communicator, writable); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  const std::vector<BenchPoint> points = PointsOf(options);
  parallel::StepTimer totals;
  rank::RankOptions rank_options = BenchRankOptions(options, points);
  rank_options.timer = &totals;
  auto loaded = rank::LoadRank(joined, rank_options, options.model.trace_file);
  if (!loaded.ok()) return rank::ReportAgreedError(world, loaded.status());
  rank::RankRuntime& runtime = *loaded->runtime;

  std::unique_ptr<kernels::MachineProbe> probe;
  const absl::Status prepared = [&]() -> absl::Status {
    TANDEM_RETURN_IF_ERROR(CheckRoom(runtime, options, points));
    TANDEM_ASSIGN_OR_RETURN(probe, rank::MakeProbe(runtime, options.model.isa));
    return absl::OkStatus();
  }();
  if (const absl::Status agreed = AgreeOnStatus(communicator, prepared); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  BenchReport report = StartReport(options, runtime, *probe);
  report.points = points;
  const rank::RankOutcome outcome = Measure(world, runtime, options, *probe, report);
  if (!outcome.done()) return outcome;
  if (absl::Status written = loaded->WriteTrace(communicator); !written.ok()) {
    return rank::AbortWorld(world, written);
  }
  const absl::Status printed = joined.rank() == 0 ? Print(options, report) : absl::OkStatus();
  if (const absl::Status agreed = AgreeOnStatus(communicator, printed); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  return rank::Done();
}

int RunBenchRank(const BenchOptions& options) {
  return rank::RunRank({spdlog::level::warn, options.model.start_timeout},
                       [&](rank::JoinedWorld& joined) { return Bench(joined, options); });
}

// Reads "decode:16:128"; throws CLI::ValidationError.
BenchCell ParseCell(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  BenchCell cell;
  if (parts.size() == 3) cell.phase = parts[0];
  if ((cell.phase != "prefill" && cell.phase != "decode") ||
      !absl::SimpleAtoi(parts[1], &cell.batch) || !absl::SimpleAtoi(parts[2], &cell.context) ||
      cell.batch < 1 || cell.batch > 4096 || cell.context < 1 || cell.context > 1 << 24) {
    throw CLI::ValidationError("--cells", absl::StrCat("found '", text,
                                                       "', expected PHASE:BATCH:CONTEXT such as "
                                                       "prefill:1:512 or decode:16:128"));
  }
  return cell;
}

}  // namespace

CLI::App* AddBench(CLI::App& parent, BenchOptions* options) {
  CLI::App* app =
      parent.add_subcommand("bench", "Measure speed, and compare it with the machine's limits");
  AddModelOptions(app, &options->model);
  AddSpeculate(app, &options->model, "off");
  AddTrace(app, &options->model);
  app->add_option("--phase", options->phase, "Phases to measure: prefill, decode or all")
      ->check(CLI::IsMember({"prefill", "decode", "all"}))
      ->capture_default_str();
  app->add_option("--batch", options->batch, "Numbers of sequences at once: 1,16")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--context", options->context,
                  "Numbers of tokens to prefill, or to decode after: 512,2048")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app->add_option_function<std::vector<std::string>>(
         "--cells",
         [options](const std::vector<std::string>& cells) {
           for (const std::string& cell : cells) options->cells.push_back(ParseCell(cell));
         },
         "Single measurements instead of the grid: prefill:1:512,decode:16:128")
      ->delimiter(',');
  app->add_option("--decode-tokens", options->decode_tokens,
                  "Tokens that each sequence generates in a timed run")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--repeats", options->repeats,
                  "Timed runs of each measurement; medians are reported")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app->add_option("--warmup", options->warmup, "Rounds before the timed ones")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  app->add_flag("--json", options->json, "Print one JSON object instead of a table");
  app->add_option("--plot", options->plot_file, "Write a chart to this file, SVG");
  app->add_flag(
      "--paced", options->paced,
      "Wait for a line on standard input before each round, to take turns with another program");
  return app;
}

absl::StatusOr<int> RunBench(const BenchOptions& options, char** argv) {
  TANDEM_RETURN_IF_ERROR(CheckStdout("the figures have"));
  WorldOptions world;
  world.pass_stdin = options.paced;
  world.relay_stdout = true;
  return RunRankOrWorld({.tp = options.model.tp, .hosts = options.model.hosts, .world = world},
                        argv, [&] { return RunBenchRank(options); });
}

}  // namespace tandem::launcher
