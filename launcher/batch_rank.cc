#include "launcher/batch_rank.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "launcher/batch_job.h"
#include "launcher/batch_progress.h"
#include "launcher/batch_replicas.h"
#include "launcher/batch_stop.h"
#include "launcher/exit_code.h"
#include "launcher/peer_watch.h"
#include "launcher/rank_runtime.h"
#include "launcher/rank_world.h"
#include "runtime/engine/engine.h"
#include "runtime/server/batch_link.h"
#include "runtime/server/batch_worker.h"
#include "runtime/server/drain_signals.h"

namespace tandem::launcher {
namespace {

using Clock = std::chrono::steady_clock;

// Results are written when the last writing is so long ago, tokens of unfinished rows when this.
constexpr std::chrono::milliseconds kResultInterval{50};
constexpr std::chrono::milliseconds kTokenInterval{1000};
// A rank that keeps the others waiting for longer counts as lost. A step's prefill may be long.
constexpr std::chrono::seconds kStepTimeout{120};
constexpr std::chrono::seconds kHeartbeat{5};

// Rank 0's word to all: whether to load the model, and the context that its rows need.
struct Start {
  bool run = false;
  int64_t context = 0;
};
absl::StatusOr<Start> AgreeOnStart(parallel::Communicator& communicator, const Start& mine) {
  TANDEM_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      communicator.AllGatherBytes(absl::StrCat(mine.run ? 1 : 0, " ", mine.context)));
  const std::vector<std::string> words = absl::StrSplit(all[0], ' ');
  return Start{words[0] == "1", std::stoll(words[1])};
}
absl::StatusOr<int> AgreeOnCode(parallel::Communicator& communicator, int mine) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          communicator.AllGatherBytes(absl::StrCat(mine)));
  return std::stoi(all[0]);
}

std::string ModelName(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  const size_t slash = path.find_last_of('/', end);
  return path.substr(slash == std::string::npos ? 0 : slash + 1, end - slash);
}

// What rank 0 works for: the files of the job, or a coordinator that has them.
struct Source {
  std::unique_ptr<BatchJob> job;           // or
  std::unique_ptr<server::LinkFeed> link;  // of a replica
  server::BatchFeed& feed() const {
    return job != nullptr ? static_cast<server::BatchFeed&>(*job->coordinator) : *link;
  }
};

// Rank 0: rows through the engine until all are over (0), something stops the job (kExitRequeue),
// or it fails.
absl::StatusOr<int> RunRows(parallel::MpiWorld* world, RankRuntime& runtime,
                            const BatchOptions& options, const BatchModel& model, Source& source,
                            const BatchStop& stop, BatchSummary* summary) {
  server::BatchFeed& feed = source.feed();
  engine::EngineConfig config;
  config.vocab_size = static_cast<int32_t>(runtime.config().vocab_size);
  config.max_model_len = static_cast<int32_t>(runtime.max_model_len());
  config.num_blocks = static_cast<int32_t>(runtime.num_blocks());
  config.max_num_seqs = static_cast<int32_t>(options.model.max_num_seqs);
  config.max_batched_tokens = static_cast<int32_t>(runtime.max_batched_tokens());
  config.eos_token_ids = runtime.eos_token_ids();
  // Enough waits that the step is full while this thread writes. What a replica keeps waiting the
  // others lack at the end.
  const int64_t window =
      source.job != nullptr ? 2 * options.model.max_num_seqs + 16 : options.model.max_num_seqs + 8;
  config.max_queue = static_cast<int32_t>(window + server::kMaxChoices);

  std::atomic<bool> failed{false};
  absl::Status failure;
  engine::EngineHooks hooks;
  if (runtime.tp() > 1) {
    hooks.on_idle = [&runtime] { return runtime.runner().Heartbeat(); };
    hooks.idle_interval = kHeartbeat;
  }
  hooks.on_failure = [&](const absl::Status& status) {
    failure = status;
    failed.store(true, std::memory_order_release);
  };
  TANDEM_ASSIGN_OR_RETURN(const auto engine,
                          engine::Engine::Create(config, &runtime.runner(), hooks));
  server::BatchWorker worker(
      *engine, model.tokenizer.get(), ModelName(options.model.model),
      {.tokens = [&](uint64_t key, int32_t choice,
                     const std::vector<int32_t>& ids) { feed.AddTokens(key, choice, ids); },
       .finish = [&](uint64_t key, bool row_failed,
                     std::string line) { feed.Finish(key, row_failed, std::move(line)); }});
  std::atomic<bool> peer_lost{false};
  absl::Status peer_status;
  std::optional<PeerWatch> peers;
  peers.emplace(runtime.places(), [&](const absl::Status& status) {
    peer_status = status;
    peer_lost.store(true, std::memory_order_release);
  });
  engine->Start();
  std::optional<BatchProgress> progress;  // a replica's is its coordinator's business
  if (source.job != nullptr) progress.emplace(DrawsBar());
  Clock::time_point next_results = Clock::now(), next_tokens = next_results + kTokenInterval;
  absl::Status status;
  std::string reason;
  while (status.ok() && !feed.all_done()) {
    reason = feed.stop_reason();
    if (reason.empty()) reason = stop.Reason();
    if (!reason.empty()) break;
    if (peer_lost.load(std::memory_order_acquire)) {
      status = absl::InternalError(std::string(peer_status.message()));
      break;
    }
    if (failed.load(std::memory_order_acquire)) {
      status = absl::InternalError(std::string(failure.message()));
      break;
    }
    if (source.link != nullptr) source.link->KeepAhead(window);
    while (worker.open_choices() < window) {
      std::optional<server::Assignment> next = feed.Next();
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
  if (!status.ok() && status.code() != absl::StatusCode::kAborted) {
    if (source.job != nullptr) {
      std::fprintf(stderr, "tandem: finished rows are safe; run the same line again to go on\n");
    }
    // Not after Stop: the step in progress may be waiting for the rank that is lost.
    LostWorld(world, status);
    return status;
  }
  peers.reset();
  worker.CancelAll();
  engine->Stop();
  TANDEM_RETURN_IF_ERROR(status);
  if (reason.empty()) return 0;
  TANDEM_RETURN_IF_ERROR(feed.Flush(/*with_tokens=*/true));
  if (source.job == nullptr) return kExitRequeue;
  std::fprintf(stderr,
               "tandem: stopping, %s: %lld rows are left, run the same line again to go on\n",
               reason.c_str(), static_cast<long long>(summary->counts.left()));
  return kExitRequeue;
}

}  // namespace

int RunBatchRank(const BatchOptions& options) {
  // Before MPI starts threads, which inherit the mask.
  auto signals = server::DrainSignals::Block();
  if (!signals.ok()) return ReportError(signals.status());
  const absl::StatusOr<StartedRank> started = StartRank(spdlog::level::warn);
  if (!started.ok()) return ReportError(started.status());
  parallel::MpiWorld* world = started->world.get();
  parallel::Communicator* communicator = started->communicator.get();
  const int rank = communicator->rank();

  std::optional<BatchStop> stop;
  std::unique_ptr<BatchModel> model;
  Source source;
  Start start;
  absl::Status opened;
  if (rank == 0) {
    stop.emplace(*std::move(signals), options.time_limit);
    opened = [&]() -> absl::Status {
      TANDEM_ASSIGN_OR_RETURN(model, OpenBatchModel(options));
      if (const char* path = std::getenv(kCoordinatorVariable)) {
        TANDEM_ASSIGN_OR_RETURN(source.link, server::LinkFeed::Start(path, model->reader));
        start = {.run = true, .context = source.link->context()};
        return absl::OkStatus();
      }
      TANDEM_ASSIGN_OR_RETURN(source.job, OpenBatchJob(options, *model));
      start = {.run = !source.job->coordinator->all_done(), .context = source.job->context};
      return absl::OkStatus();
    }();
  } else {
    server::IgnoreDrainSignals();
  }
  if (const absl::Status agreed = AgreeOnStatus(*communicator, opened); !agreed.ok()) {
    return AgreedError(world, agreed);
  }
  const absl::StatusOr<Start> agreed_start = AgreeOnStart(*communicator, start);
  if (!agreed_start.ok()) return LoneError(world, agreed_start.status());
  BatchSummary summary;
  if (source.job != nullptr) summary.counts = source.job->coordinator->counts();
  if (!agreed_start->run) {
    if (rank == 0) std::printf("%s\n", SummaryJson(summary).c_str());
    return 0;
  }
  RankOptions rank_options = RankOptionsOf(options.model);
  rank_options.used_context = agreed_start->context;
  rank_options.timeouts = {.step = kStepTimeout, .silence = kStepTimeout + kHeartbeat};
  const auto runtime = RankRuntime::Load(world, rank_options);
  if (!runtime.ok()) return AgreedError(world, runtime.status());
  const int64_t room = (*runtime)->max_model_len();
  if (room < agreed_start->context) {
    return AgreedError(
        world, absl::ResourceExhaustedError(absl::StrCat(
                   "KV cache: the longest row needs a context of ", agreed_start->context,
                   " tokens, there is room for ", room,
                   "; give --max-tokens or --max-model-len, more --kv-memory or more ranks")));
  }

  absl::StatusOr<int> code = 0;
  if (rank == 0) {
    code = RunRows(world, **runtime, options, *model, source, *stop, &summary);
    if (!code.ok() && absl::IsInternal(code.status())) return kExitInternal;  // it has been told
    if (absl::Status status = (*runtime)->runner().Shutdown(); !status.ok()) {
      return LostWorld(world, status);
    }
  } else if (absl::Status status = (*runtime)->Work(); !status.ok()) {
    return LostWorld(world, status);
  }
  if (const absl::Status agreed = AgreeOnStatus(*communicator, code.status()); !agreed.ok()) {
    return AgreedError(world, agreed);
  }
  const absl::StatusOr<int> agreed_code = AgreeOnCode(*communicator, *code);
  if (!agreed_code.ok()) return LoneError(world, agreed_code.status());
  if (source.job != nullptr) {
    std::printf("%s\n", SummaryJson(summary).c_str());
    if (std::fflush(stdout) != 0) return ReportError(OutputError("stdout: cannot be written"));
  }
  return *agreed_code;
}

}  // namespace tandem::launcher
