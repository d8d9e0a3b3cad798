// `tandem bench` on a rank. Between the runs all ranks leave their step loop together and measure
// the machine.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "launcher/command/bench_front.h"
#include "launcher/command/bench_report.h"
#include "launcher/command/runtime_options.h"
#include "launcher/command/serve.h"
#include "runtime/model/kv_cache.h"
#include "runtime/plan/step_work.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/roofline.h"
#include "runtime/rank/start.h"

namespace tandem::launcher {
namespace {

// What rank 0 wants of the others when it has ended their step loop.
constexpr char kMeasure[] = "measure";
constexpr char kEnd[] = "end";

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
        point.phase == BenchPhase::kDecode ? BenchFront::ExtraTokens(options.decode_tokens) : 16;
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

// Rank 0: all rounds.
absl::Status RunRounds(rank::RankRuntime& runtime, const BenchOptions& options,
                       const plan::ModelWork& work, kernels::MachineProbe& probe,
                       BenchReport& report) {
  int64_t max_batch = 0;
  for (const BenchPoint& point : report.points) max_batch = std::max(max_batch, point.batch);
  TANDEM_ASSIGN_OR_RETURN(const auto front,
                          BenchFront::Start(runtime, work, max_batch, options.decode_tokens));
  const auto measure = [&]() -> absl::StatusOr<plan::Ceilings> {
    TANDEM_RETURN_IF_ERROR(runtime.runner().Shutdown());
    TANDEM_RETURN_IF_ERROR(runtime.communicator().AllGatherBytes(kMeasure).status());
    return rank::MeasureCeilings(runtime, probe);
  };
  report.streamed = work.streamed;
  report.runs.resize(report.points.size());
  const int64_t rounds = options.warmup + options.repeats;
  for (int64_t round = 0; round < rounds; ++round) {
    if (options.paced) {
      std::cerr << "bench: waiting for a line on standard input" << std::endl;
      std::string line;
      if (!std::getline(std::cin, line)) {
        return absl::InvalidArgumentError(absl::StrCat("--paced: standard input ended after ",
                                                       round,
                                                       " rounds, expected a line for "
                                                       "each of ",
                                                       rounds));
      }
    }
    // Points take turns, so that a machine that changes its speed changes it for all, and each run
    // stands between two measurements of what the machine can do.
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
  return runtime.communicator().AllGatherBytes(kEnd).status();
}

// Other ranks.
absl::Status FollowRounds(rank::RankRuntime& runtime, kernels::MachineProbe& probe) {
  for (;;) {
    TANDEM_RETURN_IF_ERROR(runtime.Work());
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> wanted,
                            runtime.communicator().AllGatherBytes(""));
    if (wanted[0] == kEnd) return absl::OkStatus();
    TANDEM_RETURN_IF_ERROR(rank::MeasureCeilings(runtime, probe).status());
  }
}

absl::Status WritePlot(const std::string& file, const BenchReport& report) {
  std::ofstream out(file, std::ios::trunc);
  out << BenchChart(report);
  if (!out.flush()) return rank::OutputError(absl::StrCat("--plot ", file, ": cannot be written"));
  return absl::OkStatus();
}

absl::Status Tell(const BenchOptions& options, const BenchReport& report) {
  if (!options.plot_file.empty()) {
    TANDEM_RETURN_IF_ERROR(WritePlot(options.plot_file, report));
  }
  if (options.json) {
    std::cout << BenchJson(report) << std::endl;
  } else {
    std::cout << BenchTable(report) << std::flush;
  }
  if (!std::cout) return rank::OutputError("stdout: cannot be written");
  return absl::OkStatus();
}

rank::RankOutcome Bench(rank::JoinedWorld& joined, const BenchOptions& options) {
  parallel::MpiWorld* world = joined.world.get();
  parallel::ControlGroup* communicator = joined.communicator.get();
  const int rank = communicator->rank();

  absl::Status writable;
  if (rank == 0 && !options.plot_file.empty() && !std::ofstream(options.plot_file)) {
    writable = absl::InvalidArgumentError(
        absl::StrCat("--plot ", options.plot_file, ": cannot be written"));
  }
  if (const absl::Status agreed = AgreeOnStatus(*communicator, writable); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  parallel::StepTimer totals;
  const std::vector<BenchPoint> points = PointsOf(options);
  rank::RankOptions rank_options = RankOptionsOf(options.model);
  rank_options.timer = &totals;
  // Room for every cell's context at once: later rounds find it in the prefix cache.
  rank_options.used_context = 0;
  rank_options.max_num_seqs = 0;
  for (const BenchPoint& point : points) {
    rank_options.max_num_seqs += point.batch;
    rank_options.used_context = std::max(
        rank_options.used_context, point.context + BenchFront::ExtraTokens(options.decode_tokens));
  }
  auto loaded = rank::LoadRank(joined, rank_options, options.model.trace_file);
  if (!loaded.ok()) return rank::ReportAgreedError(world, loaded.status());
  rank::RankRuntime& runtime = *loaded->runtime;

  std::unique_ptr<kernels::MachineProbe> probe;
  const absl::Status prepared = [&]() -> absl::Status {
    TANDEM_RETURN_IF_ERROR(CheckRoom(runtime, options, points));
    TANDEM_ASSIGN_OR_RETURN(probe, rank::MakeProbe(runtime, options.model.isa));
    return absl::OkStatus();
  }();
  if (const absl::Status agreed = AgreeOnStatus(*communicator, prepared); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  const auto work = rank::WorkOf(runtime);
  if (!work.ok()) return rank::AbortWorld(world, work.status());

  BenchReport report;
  report.model = options.model.model;
  report.weights = FormatName(runtime.decoder().linear_spec());
  report.kv_dtype = std::string(kernels::KvDTypeName(runtime.kv_dtype()));
  report.isa = runtime.on_gpu() ? "cuda" : kernels::IsaInUse(options.model.isa);
  report.peak_instruction = probe->DotInstruction(rank::DotTypeOf(runtime.decoder().linear_spec()));
  report.tp = runtime.tp();
  report.threads = runtime.binding().threads;
  report.points = points;
  const absl::Status status = rank == 0 ? RunRounds(runtime, options, *work, *probe, report)
                                        : FollowRounds(runtime, *probe);
  if (!status.ok()) return rank::AbortWorld(world, status);
  const auto reports = runtime.GatherReports();
  if (!reports.ok()) return rank::AbortWorld(world, reports.status());
  for (const rank::RankReport& mine : *reports) {
    report.ranks.push_back({.planned_bytes = mine.planned_bytes, .peak_memory = mine.peak_memory});
  }
  if (absl::Status written = loaded->WriteTrace(*communicator); !written.ok()) {
    return rank::AbortWorld(world, written);
  }
  const absl::Status told = rank == 0 ? Tell(options, report) : absl::OkStatus();
  if (const absl::Status agreed = AgreeOnStatus(*communicator, told); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  return rank::Done();
}

}  // namespace

int RunBenchRank(const BenchOptions& options) {
  return rank::RunRank({spdlog::level::warn, options.model.start_timeout},
                       [&](rank::JoinedWorld& joined) { return Bench(joined, options); });
}

}  // namespace tandem::launcher
