#include "runtime/rank/rank_world.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/world/mpirun.h"
#include "runtime/rank/exit_code.h"

namespace tandem::launcher {
namespace {

void StartLog(int rank, spdlog::level::level_enum level) {
  auto logger = spdlog::stderr_color_mt("tandem");
  logger->set_pattern(absl::StrCat("%Y-%m-%d %H:%M:%S.%e %l rank ", rank, ": %v"));
  logger->set_level(std::getenv("TANDEM_DEBUG") != nullptr ? spdlog::level::debug : level);
  spdlog::set_default_logger(std::move(logger));
}

// A rank that waits in MPI's own start or end.
void GiveUp(const absl::Status& status) {
  const char* rank = std::getenv("PMIX_RANK");
  ReportError(absl::InternalError(
      absl::StrCat("rank ", rank == nullptr ? "?" : rank, ": ", std::string(status.message()))));
  _exit(kExitInternal);
}

}  // namespace

absl::StatusOr<StartedRank> StartRank(spdlog::level::level_enum log_level, double start_timeout) {
  TANDEM_ASSIGN_OR_RETURN(
      const std::optional<int> size,
      FindWorld([](const char* name) -> const char* { return std::getenv(name); }));
  StartedRank started;
  if (size.has_value()) {
    TANDEM_ASSIGN_OR_RETURN(
        started.world,
        parallel::MpiWorld::Start(
            std::chrono::milliseconds(static_cast<int64_t>(start_timeout * 1e3)), &GiveUp));
    started.communicator = started.world->MakeCommunicator();
  } else {
    started.communicator = std::make_unique<parallel::SelfCommunicator>();
  }
  StartLog(started.communicator->rank(), log_level);
  return started;
}

absl::StatusOr<std::unique_ptr<StepTrace>> StartTrace(parallel::Communicator& communicator,
                                                      const ModelOptions& model) {
  if (model.trace_file.empty()) return nullptr;
  return StepTrace::Start(communicator, model.trace_file);
}

int AgreedError(parallel::MpiWorld* world, const absl::Status& status) {
  if (absl::IsDeadlineExceeded(status)) return LostWorld(world, status);
  if (world != nullptr && world->rank() != 0) return ExitCode(status);
  return ReportError(status);
}

int LoneError(parallel::MpiWorld* world, const absl::Status& status) {
  if (absl::IsDeadlineExceeded(status)) return LostWorld(world, status);
  const int code = ReportError(
      world == nullptr ? status
                       : absl::Status(status.code(), absl::StrCat("rank ", world->rank(), ": ",
                                                                  std::string(status.message()))));
  if (world != nullptr && world->size() > 1) world->Abort(code);
  return code;
}

bool LostRank(const parallel::MpiWorld* world, const absl::Status& status) {
  return world != nullptr && world->size() > 1 && absl::IsUnavailable(status);
}

int LostWorld(parallel::MpiWorld* world, const absl::Status& status) {
  return LoneError(world, absl::InternalError(std::string(status.message())));
}

engine::WatchOptions WatchOptionsOf(const WatchLimits& limits) {
  return {.kv_low = limits.kv.first,
          .kv_high = limits.kv.second,
          .fragmentation_low = limits.fragmentation.first,
          .fragmentation_high = limits.fragmentation.second,
          .latency_warning = limits.latency.first,
          .latency_alarm = limits.latency.second};
}

void LogWatchAction(const engine::WatchAction& action) {
  using Kind = engine::WatchAction::Kind;
  const spdlog::level::level_enum level =
      action.kind == Kind::kLatencyAlarm ? spdlog::level::err
      : action.kind == Kind::kLatencyWarning || action.kind == Kind::kBatchReduced
          ? spdlog::level::warn
          : spdlog::level::info;
  spdlog::log(level, "{}", action.reason);
}

RankOptions RankOptionsOf(const ModelOptions& model) {
  RankOptions options;
  options.model = model.model;
  options.threads = model.threads;
  options.isa = model.isa;
  options.device = model.device;
  options.deterministic = model.deterministic;
  options.dtype = model.dtype;
  options.group_size = model.group_size;
  options.head_dtype = model.head_dtype;
  options.packed_cache = model.packed_cache;
  options.stream_weights = model.weights == "stream";
  options.kv_dtype = model.kv_dtype;
  options.shards = model.shards;
  options.max_model_len = model.max_model_len;
  options.kv_memory = model.kv_memory;
  options.max_num_seqs = model.max_num_seqs;
  options.max_batched_tokens = model.max_batched_tokens;
  options.bind = model.bind;
  options.collectives = model.collectives == "shm"   ? parallel::CollectivesChoice::kShm
                        : model.collectives == "mpi" ? parallel::CollectivesChoice::kMpi
                                                     : parallel::CollectivesChoice::kAuto;
  options.card_collectives = model.card_collectives;
  return options;
}

}  // namespace tandem::launcher
