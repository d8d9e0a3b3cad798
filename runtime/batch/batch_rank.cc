#include "runtime/batch/batch_rank.h"

#include <spdlog/common.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "runtime/batch/ending.h"
#include "runtime/batch/engine_worker.h"
#include "runtime/batch/own_replica.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/pump.h"
#include "runtime/batch/rank_source.h"
#include "runtime/batch/replica_processes.h"
#include "runtime/batch/stop.h"
#include "runtime/batch/timing.h"
#include "runtime/plan/step_work.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/outcome.h"
#include "runtime/rank/parent_process.h"
#include "runtime/rank/rank_runtime.h"
#include "runtime/rank/roofline.h"
#include "runtime/rank/start.h"
#include "runtime/server/drain_signals.h"

namespace tandem::batch {
namespace {

// What rank 0 tells all ranks when the job is open.
struct JobStart {
  bool has_rows = false;  // otherwise no model is loaded
  int64_t context = 0;    // tokens of the longest row, answer included
};

// The steps of one rank. A step returns an outcome where the rank ends with it.
class BatchRank {
 public:
  using MaybeOutcome = std::optional<rank::RankOutcome>;

  BatchRank(rank::JoinedWorld& joined, const JobOptions& options)
      : options_(options),
        role_(ReplicaRoleOfThisProcess()),
        given_(joined.world.get()),
        all_(*joined.communicator) {}

  rank::RankOutcome Run(std::unique_ptr<server::DrainSignals> signals) {
    if (MaybeOutcome outcome = FindReplica()) return *outcome;
    WatchSignals(std::move(signals));
    if (MaybeOutcome outcome = OpenSource()) return *outcome;
    if (!start_.has_rows) return End(0);
    if (MaybeOutcome outcome = ConnectReplicas()) return *outcome;
    if (MaybeOutcome outcome = Load()) return *outcome;
    int exit_code = 0;
    if (MaybeOutcome outcome = RunSteps(exit_code)) return *outcome;
    if (MaybeOutcome outcome = MeasureRoofline(exit_code)) return *outcome;
    return End(exit_code);
  }

 private:
  bool is_first() const { return all_.rank() == 0; }
  parallel::MpiWorld* world() const {  // of this rank's replica
    return replica_.world != nullptr ? replica_.world.get() : given_;
  }
  bool leads_replica() const { return world() == nullptr || world()->rank() == 0; }

  // Collective, all of them.
  MaybeOutcome FindReplica();
  MaybeOutcome OpenSource();
  MaybeOutcome ConnectReplicas();
  MaybeOutcome Load();
  MaybeOutcome RunSteps(int& exit_code);
  MaybeOutcome MeasureRoofline(int exit_code);
  MaybeOutcome Agree(const absl::Status& mine);

  void WatchSignals(std::unique_ptr<server::DrainSignals> signals);
  // A status: all ranks end with this error. An outcome that is not done has been reported.
  absl::StatusOr<rank::RankOutcome> ComputeRows();
  rank::RankOutcome End(int exit_code);

  const JobOptions& options_;
  const std::optional<ReplicaRole> role_;
  parallel::MpiWorld* const given_;  // null in a world of one without MPI
  parallel::ControlGroup& all_;      // of the given world
  OwnReplica replica_;
  std::optional<BatchStop> stop_;  // on the first rank
  RankSource source_;
  JobStart start_;
  CoordinatorAddress coordinator_;
  std::unique_ptr<rank::RankRuntime> runtime_;
  plan::ModelWork work_;
  std::optional<plan::CountingExecutor> executor_;  // on rank 0 of a replica
  BatchSummary summary_;
};

BatchRank::MaybeOutcome BatchRank::Agree(const absl::Status& mine) {
  const absl::Status agreed = parallel::AgreeOnStatus(all_, mine);
  if (agreed.ok()) return std::nullopt;
  return rank::ReportAgreedError(given_, agreed);
}

BatchRank::MaybeOutcome BatchRank::FindReplica() {
  if (role_.has_value()) {
    replica_.cpus = replica_.memory = role_->share;
  } else if (given_ != nullptr && !rank::StartedByLauncher()) {
    absl::StatusOr<OwnReplica> found = FindOwnReplica(*given_, all_, options_);
    if (!found.ok()) return rank::ReportAgreedError(given_, found.status());
    replica_ = *std::move(found);
  }
  summary_.replicas = replica_.replicas;
  return std::nullopt;
}

void BatchRank::WatchSignals(std::unique_ptr<server::DrainSignals> signals) {
  if (!is_first()) {
    server::IgnoreDrainSignals();
    return;
  }
  // Ranks of a foreign mpirun or srun end together.
  const bool leaves_early = given_ == nullptr || rank::StartedByLauncher();
  stop_.emplace(std::move(signals), options_.time_limit, leaves_early);
}

BatchRank::MaybeOutcome BatchRank::OpenSource() {
  absl::Status opened;
  if (is_first() && role_.has_value()) {
    opened = ConnectToCoordinator(options_, role_->coordinator, role_->index, source_);
    if (opened.ok()) start_ = {.has_rows = true, .context = source_.link->context()};
  } else if (is_first()) {
    opened = OpenFiles(options_, replica_, source_);
    if (opened.ok()) {
      start_ = {.has_rows = !source_.job->coordinator->all_done(), .context = source_.job->context};
      summary_.counts = source_.job->coordinator->counts();
    }
  }
  if (MaybeOutcome outcome = Agree(opened)) return outcome;
  const auto starts = parallel::AllGather(all_, start_);
  if (!starts.ok()) return rank::AbortWorld(given_, starts.status());
  start_ = (*starts)[0];
  return std::nullopt;
}

BatchRank::MaybeOutcome BatchRank::ConnectReplicas() {
  if (replica_.replicas == 1) return std::nullopt;
  const std::string mine =
      source_.replicas != nullptr ? source_.replicas->address().ToString() : "";
  const auto addresses = parallel::AllGather(all_, mine);
  if (!addresses.ok()) return rank::AbortWorld(given_, addresses.status());
  absl::Status connected;
  if (leads_replica() && !is_first()) {
    const absl::StatusOr<CoordinatorAddress> coordinator =
        CoordinatorAddress::Parse((*addresses)[0]);
    connected = coordinator.ok()
                    ? ConnectToCoordinator(options_, *coordinator, replica_.index, source_)
                    : coordinator.status();
  }
  return Agree(connected);
}

BatchRank::MaybeOutcome BatchRank::Load() {
  rank::RankOptions options = options_.rank;
  options.used_context = start_.context;
  options.timeouts = {.step = parallel::kPatientStep,
                      .silence = parallel::kPatientStep + kHeartbeat};
  options.cpus = replica_.cpus;
  options.memory = replica_.memory;
  absl::StatusOr<std::unique_ptr<rank::RankRuntime>> loaded =
      rank::RankRuntime::Load(world(), options);
  absl::Status status = loaded.status();
  if (status.ok() && (*loaded)->max_model_len() < start_.context) {
    status = absl::ResourceExhaustedError(
        absl::StrCat("KV cache: the longest row needs a context of ", start_.context,
                     " tokens, there is room for ", (*loaded)->max_model_len(),
                     "; give --max-tokens or --max-model-len, more --kv-memory or more ranks"));
  }
  if (MaybeOutcome outcome = Agree(status)) return outcome;
  runtime_ = *std::move(loaded);
  absl::StatusOr<plan::ModelWork> work = rank::WorkOf(*runtime_);
  if (!work.ok()) return rank::AbortWorld(given_, work.status());
  work_ = *std::move(work);
  return std::nullopt;
}

BatchRank::MaybeOutcome BatchRank::RunSteps(int& exit_code) {
  if (given_ != nullptr) {
    // From here on no exchange takes long, except that other replicas than the first wait for the
    // end of the job.
    given_->SetPatience(replica_.index == 0 ? parallel::kPatientStep : std::chrono::seconds(0));
  }
  if (stop_.has_value()) stop_->RowsBegin();
  absl::StatusOr<rank::RankOutcome> computed = rank::Done();
  if (leads_replica()) {
    executor_.emplace(runtime_->runner(), work_);
    computed = ComputeRows();
    if (computed.ok() && !computed->done()) return *computed;
    if (absl::Status status = runtime_->runner().Shutdown(); !status.ok()) {
      return rank::AbortAfterRankFailure(given_, status);
    }
  } else if (absl::Status status = runtime_->Work(); !status.ok()) {
    return rank::AbortAfterRankFailure(given_, status);
  }
  if (MaybeOutcome outcome = Agree(computed.status())) return outcome;
  const auto codes = parallel::AllGather(all_, computed->exit_code);
  if (!codes.ok()) return rank::AbortWorld(given_, codes.status());
  exit_code = (*codes)[0];
  return std::nullopt;
}

absl::StatusOr<rank::RankOutcome> BatchRank::ComputeRows() {
  RowSource& rows = source_.rows();
  const bool among_others = source_.job == nullptr || source_.replicas != nullptr;
  TANDEM_ASSIGN_OR_RETURN(
      const std::unique_ptr<EngineWorker> engine,
      EngineWorker::Start({.runtime = *runtime_,
                           .options = options_,
                           .model = *source_.model,
                           .source = rows,
                           .executor = *executor_,
                           .window = EngineWorker::Window(options_, among_others)}));
  PumpOptions pump = {.source = rows, .stop = stop_.has_value() ? &*stop_ : nullptr};
  if (source_.replicas != nullptr) pump.workers.push_back(source_.replicas.get());
  pump.workers.push_back(engine.get());
  std::optional<BatchProgress> progress;  // of a replica elsewhere: its coordinator shows it
  if (source_.job != nullptr) {
    pump.progress = &progress.emplace(options_.progress_interval, *source_.job->coordinator);
  }
  const PumpResult result = PumpRows(pump);
  if (progress.has_value()) Summarize(*source_.job->coordinator, *progress, summary_);
  if (source_.replicas != nullptr) {
    summary_.replicas_dead = source_.replicas->dead();
    source_.replicas->End(rows.all_done());
  }
  if (result.ending == PumpResult::Ending::kWorkerFailed) {
    if (source_.job != nullptr) PrintRowsAreSafe();
    // Before the engine's end, since the step in progress may be waiting for the rank that died.
    return rank::AbortAfterRankFailure(given_, result.error);
  }
  engine->End();
  TANDEM_RETURN_IF_ERROR(result.error);
  if (result.ending == PumpResult::Ending::kAllDone) return rank::Done();
  TANDEM_RETURN_IF_ERROR(rows.Flush(/*with_tokens=*/true));
  if (source_.job != nullptr) PrintStop(result.stop_reason, summary_.counts);
  return rank::Done(rank::kExitRequeue);
}

BatchRank::MaybeOutcome BatchRank::MeasureRoofline(int exit_code) {
  // A job that stops early has no time for it.
  if (exit_code != 0 || replica_.replicas > 1 || role_.has_value()) return std::nullopt;
  const absl::StatusOr<double> least = rank::SecondsAtCeilings(
      *runtime_, options_.rank.isa, executor_.has_value() ? &*executor_ : nullptr);
  if (!least.ok()) return rank::AbortWorld(given_, least.status());
  if (summary_.seconds > 0) summary_.roofline_fraction = *least / summary_.seconds;
  return std::nullopt;
}

rank::RankOutcome BatchRank::End(int exit_code) {
  if (source_.job != nullptr) {
    if (absl::Status printed = PrintSummary(summary_); !printed.ok()) {
      return rank::ReportOwnError(printed);
    }
  }
  return rank::Done(exit_code);
}

}  // namespace

int RunBatchRank(const JobOptions& options) {
  // Before MPI starts threads, which inherit the mask.
  auto signals = server::DrainSignals::Block();
  if (!signals.ok()) return rank::ReportError(signals.status());
  return rank::RunRank(
      {BarColumns() > 0 ? spdlog::level::warn : spdlog::level::info, options.start_timeout},
      [&](rank::JoinedWorld& joined) {
        return BatchRank(joined, options).Run(*std::move(signals));
      });
}

}  // namespace tandem::batch
