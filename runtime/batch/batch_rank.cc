#include "runtime/batch/batch_rank.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "runtime/batch/job.h"
#include "runtime/batch/link.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/replica_links.h"
#include "runtime/batch/replica_places.h"
#include "runtime/batch/replicas.h"
#include "runtime/batch/stop.h"
#include "runtime/batch/worker.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/sampling_fields.h"
#include "runtime/rank/engine_setup.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/parent_process.h"
#include "runtime/rank/peer_watch.h"
#include "runtime/rank/rank_runtime.h"
#include "runtime/rank/roofline.h"
#include "runtime/rank/start.h"
#include "runtime/server/drain_signals.h"

namespace tandem::batch {
namespace {

using Clock = std::chrono::steady_clock;

// Results are written when the last writing is so long ago, tokens of unfinished rows when this.
constexpr std::chrono::milliseconds kResultInterval{50};
constexpr std::chrono::milliseconds kTokenInterval{1000};

// Rank 0's word to all: whether to load the model, the context that its rows need, and where other
// replicas of this world find the coordinator.
struct Start {
  bool run = false;
  int64_t context = 0;
  std::string coordinator;
};
absl::StatusOr<Start> AgreeOnStart(parallel::ControlGroup& communicator, const Start& mine) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          communicator.AllGatherBytes(absl::StrCat(
                              mine.run ? 1 : 0, " ", mine.context, " ", mine.coordinator)));
  const std::vector<std::string> words = absl::StrSplit(all[0], ' ');
  return Start{words[0] == "1", std::stoll(words[1]), words[2]};
}
absl::StatusOr<int> AgreeOnCode(parallel::ControlGroup& communicator, int mine) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          communicator.AllGatherBytes(absl::StrCat(mine)));
  return std::stoi(all[0]);
}

std::string ModelName(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  const size_t slash = path.find_last_of('/', end);
  return path.substr(slash == std::string::npos ? 0 : slash + 1, end - slash);
}

// What a replica's rank 0 works for: the files of the job, or a coordinator that has them.
struct Source {
  std::unique_ptr<BatchJob> job;
  std::unique_ptr<LinkListener> listener;  // with a job of several replicas
  std::unique_ptr<ReplicaLinks> others;    // likewise
  std::unique_ptr<LinkFeed> link;          // without a job
  BatchFeed& feed() const {
    return job != nullptr ? static_cast<BatchFeed&>(*job->coordinator) : *link;
  }
};

// A replica's rank 0: rows through the engine until all are over (0), something stops the job
// (kExitRequeue), or it fails. A status is an output error. `stop` is null where the coordinator
// alone decides.
absl::StatusOr<rank::RankOutcome> RunRows(parallel::MpiWorld* world, rank::RankRuntime& runtime,
                                          const JobOptions& options, const BatchModel& model,
                                          Source& source, const BatchStop* stop,
                                          plan::CountingExecutor& executor, BatchSummary* summary) {
  BatchFeed& feed = source.feed();
  engine::EngineConfig config = rank::EngineConfigOf(runtime);
  config.max_num_seqs = static_cast<int32_t>(options.rank.max_num_seqs);
  config.load_guard = options.watch;
  // Rows wait for each other as long as it takes.
  config.load_guard.latency_warning = config.load_guard.latency_alarm =
      std::numeric_limits<double>::infinity();
  // Enough waits that the step is full while this thread writes. What a replica keeps waiting the
  // others lack at the end.
  const int64_t window = source.job != nullptr && source.others == nullptr
                             ? 2 * options.rank.max_num_seqs + 16
                             : options.rank.max_num_seqs + 8;
  config.max_queue = static_cast<int32_t>(window + engine::kMaxChoices);

  std::atomic<bool> failed{false};
  absl::Status failure;
  engine::EngineHooks hooks = rank::EngineHooksOf(runtime, kHeartbeat);
  hooks.on_failure = [&](const absl::Status& status) {
    failure = status;
    failed.store(true, std::memory_order_release);
  };
  TANDEM_ASSIGN_OR_RETURN(const auto engine, engine::Engine::Create(config, &executor, hooks));
  BatchWorker worker(
      *engine, model.tokenizer.get(), ModelName(options.rank.model),
      {.tokens = [&](uint64_t key, int32_t choice,
                     const std::vector<int32_t>& ids) { feed.AddTokens(key, choice, ids); },
       .finish = [&](uint64_t key, bool row_failed,
                     std::string line) { feed.Finish(key, row_failed, std::move(line)); }});
  std::atomic<bool> peer_lost{false};
  absl::Status peer_status;
  std::optional<rank::PeerWatch> peers;
  peers.emplace(runtime.places(), [&](const absl::Status& status) {
    peer_status = status;
    peer_lost.store(true, std::memory_order_release);
  });
  engine->Start();
  std::optional<BatchProgress> progress;  // a replica's is its coordinator's business
  if (source.job != nullptr) progress.emplace(options.progress_interval);
  Clock::time_point next_results = Clock::now(), next_tokens = next_results + kTokenInterval;
  Clock::time_point next_beat = next_results;
  absl::Status status;
  std::string reason;
  while (status.ok() && !feed.all_done()) {
    reason = feed.stop_reason();
    if (reason.empty() && stop != nullptr) reason = stop->Reason();
    if (!reason.empty()) break;
    if (peer_lost.load(std::memory_order_acquire)) {
      status = absl::InternalError(std::string(peer_status.message()));
      break;
    }
    if (failed.load(std::memory_order_acquire)) {
      status = absl::InternalError(std::string(failure.message()));
      break;
    }
    if (source.link != nullptr) {
      source.link->KeepAhead(window);
      if (Clock::now() >= next_beat) {
        source.link->TellSteps(executor.steps());
        next_beat = Clock::now() + kHeartbeat;
      }
    }
    int64_t most = window;
    if (source.others != nullptr) {
      source.others->HandOut();
      most = std::min(most, source.others->FairShare());
    }
    while (worker.open_choices() < most) {
      std::optional<Assignment> next = feed.Next();
      if (!next.has_value()) break;
      const absl::Status started = worker.Start(next->row, std::move(next->tokens));
      if (!started.ok()) break;  // the engine has failed: seen above
    }
    feed.Wait(std::chrono::milliseconds(100));
    const Clock::time_point now = Clock::now();
    if (now >= next_results) {
      const bool with_tokens = now >= next_tokens;
      status = feed.Flush(with_tokens);
      next_results = Clock::now() + kResultInterval;
      if (with_tokens) next_tokens = Clock::now() + kTokenInterval;
    }
    if (progress.has_value()) progress->Update(source.job->coordinator->counts());
  }
  // What there is goes to disk before anything that may take time.
  if (status.code() != absl::StatusCode::kAborted) {
    const absl::Status flushed = feed.Flush(/*with_tokens=*/true);
    if (status.ok()) status = flushed;
  }
  if (progress.has_value()) {
    progress->End();
    summary->counts = source.job->coordinator->counts();
    summary->seconds = progress->seconds();
    summary->stopped = summary->counts.left() > 0;
  }
  if (source.others != nullptr) {
    summary->replicas_lost = source.others->lost();
    source.others->Tell(feed.all_done() ? nlohmann::json{{"end", true}}
                                        : nlohmann::json{{"stop", true}});
  }
  if (!status.ok() && status.code() != absl::StatusCode::kAborted) {
    if (source.job != nullptr) {
      std::fprintf(stderr, "tandem: finished rows are safe; run the same line again to go on\n");
    }
    // Before Stop, since the step in progress may be waiting for the rank that died. In a world of
    // one, which is still here, the engine ends before what its requests' sinks belong to.
    const rank::RankOutcome outcome = rank::AbortAfterRankFailure(world, status);
    engine->Stop();
    return outcome;
  }
  peers.reset();
  worker.CancelAll();
  engine->Stop();
  TANDEM_RETURN_IF_ERROR(status);
  if (reason.empty()) return rank::Done();
  TANDEM_RETURN_IF_ERROR(feed.Flush(/*with_tokens=*/true));
  if (source.job == nullptr) return rank::Done(rank::kExitRequeue);
  std::fprintf(stderr,
               "tandem: stopping, %s: %lld rows are left, run the same line again to go on\n",
               reason.c_str(), static_cast<long long>(summary->counts.left()));
  return rank::Done(rank::kExitRequeue);
}

// A world that was given, cut into replicas.
struct Parts {
  std::unique_ptr<parallel::MpiWorld> world;  // this rank's replica; null: all are one
  std::unique_ptr<parallel::ControlGroup> communicator;
  int replica = 0;
  int replicas = 1;
  bool several_hosts = false;
  rank::HostShare cpus;    // of those that this rank may use
  rank::HostShare memory;  // of this host's
};

// Decided alike by all ranks: by their hosts, their CPUs and the options.
absl::StatusOr<Parts> CutWorld(const parallel::MpiWorld& world,
                               parallel::ControlGroup& communicator, const JobOptions& options) {
  const std::vector<int>& host_of = world.host_of();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> cpus,
                          communicator.AllGatherBytes(absl::StrJoin(rank::AllowedCpus(), " ")));
  std::vector<std::vector<int>> ranks_on;  // by host
  for (int rank = 0; rank < world.size(); ++rank) {
    if (host_of[rank] == static_cast<int>(ranks_on.size())) ranks_on.emplace_back();
    ranks_on[host_of[rank]].push_back(rank);
  }
  std::vector<int> slots;
  for (const auto& ranks : ranks_on) slots.push_back(static_cast<int>(ranks.size()));
  int tp = options.tp;
  if (tp == 0 && options.replicas == 0 && slots.size() == 1) {
    // One host: a replica a socket, where sockets have several ranks.
    std::set<int> all_cpus;
    for (const std::string& list : cpus) {
      for (const auto word : absl::StrSplit(list, ' ')) {
        int cpu = 0;
        if (absl::SimpleAtoi(word, &cpu)) all_cpus.insert(cpu);
      }
    }
    const absl::StatusOr<rank::Topology> topology = rank::Topology::Load();
    const int sockets =
        topology.ok() ? topology->MemorySockets({all_cpus.begin(), all_cpus.end()}) : 1;
    tp = slots[0] % sockets == 0 && slots[0] > sockets ? slots[0] / sockets : slots[0];
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<ReplicaPlace> places,
                          CutReplicas(slots, tp, options.replicas));
  std::vector<int> replica_of(world.size(), -1);
  std::vector<size_t> used(slots.size(), 0);
  for (size_t k = 0; k < places.size(); ++k) {
    for (const auto& [host, count] : places[k].ranks) {
      for (int i = 0; i < count; ++i)
        replica_of[ranks_on[host][used[host]++]] = static_cast<int>(k);
    }
  }
  for (int rank = 0; rank < world.size(); ++rank) {
    if (replica_of[rank] >= 0) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", rank, " has no replica to be in: hosts have ", absl::StrJoin(slots, " and "),
        " ranks, a replica ", tp == 0 ? "as many" : absl::StrCat(tp), "; see --tp and --replicas"));
  }
  const int own = world.rank();
  Parts parts;
  parts.replica = replica_of[own];
  parts.replicas = static_cast<int>(places.size());
  parts.several_hosts = slots.size() > 1;
  std::set<int> on_host, with_cpus;
  for (const int rank : ranks_on[host_of[own]]) {
    on_host.insert(replica_of[rank]);
    if (cpus[rank] == cpus[own]) with_cpus.insert(replica_of[rank]);
  }
  const auto share = [&](const std::set<int>& replicas) {
    return rank::HostShare{
        static_cast<int>(std::distance(replicas.begin(), replicas.find(parts.replica))),
        static_cast<int>(replicas.size())};
  };
  parts.memory = share(on_host);
  parts.cpus = share(with_cpus);
  if (parts.replicas > 1) {
    parts.world = world.Split(replica_of);
    parts.communicator = parts.world->MakeControlGroup();
  }
  return parts;
}

// Rank 0 of all: the job's files, and the door for other replicas.
absl::Status OpenSource(const JobOptions& options, const Parts& parts,
                        std::unique_ptr<BatchModel>& model, Source& source, Start& start) {
  TANDEM_ASSIGN_OR_RETURN(model, OpenBatchModel(options));
  if (const std::optional<ReplicaRole> role = ReplicaRoleOfThisProcess()) {
    TANDEM_ASSIGN_OR_RETURN(source.link,
                            LinkFeed::Start(role->coordinator, role->index, model->reader));
    start = {.run = true, .context = source.link->context()};
    return absl::OkStatus();
  }
  TANDEM_ASSIGN_OR_RETURN(source.job, OpenBatchJob(options, *model));
  start = {.run = !source.job->coordinator->all_done(), .context = source.job->context};
  if (parts.replicas > 1 && start.run) {
    TANDEM_ASSIGN_OR_RETURN(source.listener, LinkListener::Open(parts.several_hosts));
    source.others = std::make_unique<ReplicaLinks>(*source.listener, *source.job->coordinator,
                                                   source.job->context, parts.replicas,
                                                   parallel::kPatientStep + 2 * kHeartbeat);
    start.coordinator = source.listener->coordinator();
  }
  return absl::OkStatus();
}

// Rank 0 of another replica of this world.
absl::Status LinkSource(const JobOptions& options, const Parts& parts, const Start& start,
                        std::unique_ptr<BatchModel>& model, Source& source) {
  TANDEM_ASSIGN_OR_RETURN(model, OpenBatchModel(options));
  TANDEM_ASSIGN_OR_RETURN(source.link,
                          LinkFeed::Start(start.coordinator, parts.replica, model->reader));
  return absl::OkStatus();
}

rank::RankOutcome RunBatch(rank::JoinedWorld& joined, const JobOptions& options,
                           std::unique_ptr<server::DrainSignals> signals) {
  parallel::MpiWorld* all_world = joined.world.get();
  parallel::ControlGroup& all = *joined.communicator;

  Parts parts;
  const std::optional<ReplicaRole> role = ReplicaRoleOfThisProcess();
  if (role.has_value()) {
    parts.cpus = parts.memory = role->share;
  } else if (all_world != nullptr && !rank::StartedByLauncher()) {
    absl::StatusOr<Parts> cut = CutWorld(*all_world, all, options);
    if (!cut.ok()) return rank::ReportAgreedError(all_world, cut.status());
    parts = *std::move(cut);
  }
  // Of this rank's replica.
  parallel::MpiWorld* world = parts.world != nullptr ? parts.world.get() : all_world;
  const int rank = world == nullptr ? 0 : world->rank();

  std::optional<BatchStop> stop;
  std::unique_ptr<BatchModel> model;
  Source source;
  Start start;
  absl::Status opened;
  if (all.rank() == 0) {
    // Ranks of a foreign mpirun or srun end together.
    const bool may_leave = all_world == nullptr || rank::StartedByLauncher();
    stop.emplace(std::move(signals), options.time_limit, may_leave);
  } else {
    server::IgnoreDrainSignals();
  }
  if (all.rank() == 0) opened = OpenSource(options, parts, model, source, start);
  if (const absl::Status agreed = AgreeOnStatus(all, opened); !agreed.ok()) {
    return rank::ReportAgreedError(all_world, agreed);
  }
  const absl::StatusOr<Start> agreed_start = AgreeOnStart(all, start);
  if (!agreed_start.ok()) return rank::AbortWorld(all_world, agreed_start.status());
  BatchSummary summary;
  summary.replicas = parts.replicas;
  if (source.job != nullptr) summary.counts = source.job->coordinator->counts();
  if (!agreed_start->run) {
    if (all.rank() == 0) std::printf("%s\n", SummaryJson(summary).c_str());
    return rank::Done();
  }
  if (rank == 0 && all.rank() != 0) {
    opened = LinkSource(options, parts, *agreed_start, model, source);
  }
  if (const absl::Status agreed = AgreeOnStatus(all, opened); !agreed.ok()) {
    return rank::ReportAgreedError(all_world, agreed);
  }
  rank::RankOptions rank_options = options.rank;
  rank_options.used_context = agreed_start->context;
  rank_options.timeouts = {.step = parallel::kPatientStep,
                           .silence = parallel::kPatientStep + kHeartbeat};
  rank_options.cpus = parts.cpus;
  rank_options.memory = parts.memory;
  const auto runtime = rank::RankRuntime::Load(world, rank_options);
  absl::Status loaded = runtime.status();
  if (loaded.ok() && (*runtime)->max_model_len() < agreed_start->context) {
    loaded = absl::ResourceExhaustedError(
        absl::StrCat("KV cache: the longest row needs a context of ", agreed_start->context,
                     " tokens, there is room for ", (*runtime)->max_model_len(),
                     "; give --max-tokens or --max-model-len, more --kv-memory or more ranks"));
  }
  if (const absl::Status agreed = AgreeOnStatus(all, loaded); !agreed.ok()) {
    return rank::ReportAgreedError(all_world, agreed);
  }

  const absl::StatusOr<plan::ModelWork> work = rank::WorkOf(**runtime);
  if (!work.ok()) return rank::AbortWorld(all_world, work.status());
  if (all_world != nullptr) {
    // Nothing is left that takes long, but for other replicas the end of the job.
    all_world->SetPatience(parts.replica == 0 ? parallel::kPatientStep : std::chrono::seconds(0));
  }
  if (stop.has_value()) stop->RowsBegin();
  std::optional<plan::CountingExecutor> executor;
  absl::StatusOr<rank::RankOutcome> rows = rank::Done();
  if (rank == 0) {
    executor.emplace((*runtime)->runner(), *work);
    rows = RunRows(all_world, **runtime, options, *model, source,
                   stop.has_value() ? &*stop : nullptr, *executor, &summary);
    if (rows.ok() && !rows->done()) return *rows;
    if (absl::Status status = (*runtime)->runner().Shutdown(); !status.ok()) {
      return rank::AbortAfterRankFailure(all_world, status);
    }
  } else if (absl::Status status = (*runtime)->Work(); !status.ok()) {
    return rank::AbortAfterRankFailure(all_world, status);
  }
  if (const absl::Status agreed = AgreeOnStatus(all, rows.status()); !agreed.ok()) {
    return rank::ReportAgreedError(all_world, agreed);
  }
  const absl::StatusOr<int> agreed_code = AgreeOnCode(all, rows->exit_code);
  if (!agreed_code.ok()) return rank::AbortWorld(all_world, agreed_code.status());
  // Of one replica, when all is done: who stops early has no time for it.
  if (*agreed_code == 0 && parts.replicas == 1 && !role.has_value()) {
    const absl::StatusOr<double> least = rank::SecondsAtCeilings(
        **runtime, options.rank.isa, executor.has_value() ? &*executor : nullptr);
    if (!least.ok()) return rank::AbortWorld(all_world, least.status());
    if (summary.seconds > 0) summary.roofline_fraction = *least / summary.seconds;
  }
  if (source.job != nullptr) {
    std::printf("%s\n", SummaryJson(summary).c_str());
    if (std::fflush(stdout) != 0)
      return rank::ReportOwnError(rank::OutputError("stdout: cannot be written"));
  }
  return rank::Done(*agreed_code);
}

}  // namespace

int RunBatchRank(const JobOptions& options) {
  // Before MPI starts threads, which inherit the mask.
  auto signals = server::DrainSignals::Block();
  if (!signals.ok()) return rank::ReportError(signals.status());
  return rank::RunRank(
      {BarColumns() > 0 ? spdlog::level::warn : spdlog::level::info, options.start_timeout},
      [&](rank::JoinedWorld& joined) { return RunBatch(joined, options, *std::move(signals)); });
}

}  // namespace tandem::batch
