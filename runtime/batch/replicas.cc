#include "runtime/batch/replicas.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "kernels/base/status_macros.h"
#include "runtime/batch/ending.h"
#include "runtime/batch/job.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/pump.h"
#include "runtime/batch/replica_places.h"
#include "runtime/batch/replica_server.h"
#include "runtime/batch/stop.h"
#include "runtime/rank/exit_code.h"
#include "runtime/server/drain_signals.h"

namespace tandem::batch {
namespace {

// For replicas to end after the last row or a stop: a step may be in progress.
constexpr std::chrono::seconds kEndLimit{30};

// All replicas: their links and their processes.
class ReplicaGroup : public Worker {
 public:
  ReplicaGroup(ReplicaServer& server, ReplicaProcesses& processes)
      : server_(server), processes_(processes) {}

  int replicas() const override { return server_.replicas(); }

  absl::Status TakeRows(RowSource& source, int64_t most) override {
    TANDEM_RETURN_IF_ERROR(server_.TakeRows(source, most));
    for (const int replica : server_.TakeStalled()) processes_.Kill(replica);
    for (const int replica : processes_.Reap()) server_.ReportDead(replica);
    if (processes_.running() > 0) return absl::OkStatus();
    return absl::InternalError("no replica is left; run the same command again to continue");
  }

 private:
  ReplicaServer& server_;
  ReplicaProcesses& processes_;
};

// The exit code of replicas that died before they finished a row, such as for a model that is not
// there: it says more than that they died. 0: there is none.
int CommonFailure(const PumpResult& result, const ReplicaProcesses& processes,
                  const BatchCounts& counts) {
  if (result.ending != PumpResult::Ending::kWorkerFailed || counts.finished > 0) return 0;
  const int code = processes.first_failure();
  return code >= rank::kExitUsage && code <= rank::kExitConfig ? code : 0;
}

struct ReplicatedJob {
  const JobOptions& options;
  const std::vector<HostedReplica>& replicas;
  char** argv;
  std::unique_ptr<server::DrainSignals> signals;
  std::unique_ptr<BatchJob> job;
  BatchSummary summary;
};

// 0 when rows are done or the job was stopped, else the exit code of the replicas' common failure.
absl::StatusOr<int> ComputeRows(ReplicatedJob& all) {
  BatchCoordinator& coordinator = *all.job->coordinator;
  ReplicaProcesses processes;
  TANDEM_RETURN_IF_ERROR(processes.Fork(all.replicas, all.argv));  // before any thread
  TANDEM_ASSIGN_OR_RETURN(
      const std::unique_ptr<ReplicaServer> server,
      ReplicaServer::Start(coordinator, {.replicas = all.summary.replicas,
                                         .context = all.job->context,
                                         .time = all.job->time,
                                         .for_other_hosts = !all.options.hosts.empty()}));
  processes.Begin(server->address());
  const BatchStop stop(std::move(all.signals), all.options.time_limit, /*leaves_early=*/false);
  BatchProgress progress(all.options.progress_interval, coordinator);
  ReplicaGroup group(*server, processes);
  const PumpResult result =
      PumpRows({.source = coordinator, .workers = {&group}, .stop = &stop, .progress = &progress});
  Summarize(coordinator, progress, all.summary);
  all.summary.replicas_dead = server->dead();
  server->End(coordinator.all_done());
  processes.AwaitEnd(kEndLimit);
  if (const int code = CommonFailure(result, processes, all.summary.counts); code != 0) return code;
  TANDEM_RETURN_IF_ERROR(result.error);
  if (result.ending == PumpResult::Ending::kStopped) {
    // Since the pump's end, replicas have sent the last tokens of their unfinished rows.
    TANDEM_RETURN_IF_ERROR(coordinator.Flush(/*with_tokens=*/true));
    PrintStop(result.stop_reason, all.summary.counts);
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::vector<HostedReplica>> ReplicasOf(const JobOptions& options) {
  std::vector<HostedReplica> replicas;
  if (options.hosts.empty()) {
    const int count = std::max(1, options.replicas);
    for (int k = 0; k < count; ++k) {
      replicas.push_back({.share = {.index = k, .count = count}});
    }
    return replicas;
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<rank::HostSlots> hosts,
                          rank::ParseHosts(options.hosts));
  std::vector<int> slots;
  for (const rank::HostSlots& host : hosts) slots.push_back(host.slots);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<ReplicaPlace> places,
                          CutReplicas(slots, options.tp, options.replicas));
  for (const ReplicaPlace& place : places) {
    HostedReplica& replica = replicas.emplace_back();
    replica.share = place.share;
    for (const auto& [host, ranks] : place.ranks) {
      replica.hosts.push_back({hosts[host].name, ranks});
    }
  }
  return replicas;
}

absl::StatusOr<int> RunReplicas(const JobOptions& options,
                                const std::vector<HostedReplica>& replicas, char** argv) {
  ReplicatedJob all = {.options = options, .replicas = replicas, .argv = argv};
  TANDEM_ASSIGN_OR_RETURN(all.signals, server::DrainSignals::Block());
  {
    TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<BatchModel> model, OpenBatchModel(options));
    TANDEM_ASSIGN_OR_RETURN(all.job, OpenBatchJob(options, *model));
  }
  all.summary.replicas = static_cast<int>(replicas.size());
  all.summary.counts = all.job->coordinator->counts();
  if (!all.job->coordinator->all_done()) {
    TANDEM_ASSIGN_OR_RETURN(const int code, ComputeRows(all));
    if (code != 0) return code;
  }
  TANDEM_RETURN_IF_ERROR(PrintSummary(all.summary));
  return all.summary.stopped ? rank::kExitRequeue : 0;
}

}  // namespace tandem::batch
