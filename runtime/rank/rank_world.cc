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
#include "runtime/rank/exit_code.h"
#include "runtime/rank/given_world.h"

namespace tandem::rank {
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
                                                      const std::string& file) {
  if (file.empty()) return nullptr;
  return StepTrace::Start(communicator, file);
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

void LogWatchAction(const engine::WatchAction& action) {
  using Kind = engine::WatchAction::Kind;
  const spdlog::level::level_enum level =
      action.kind == Kind::kLatencyAlarm ? spdlog::level::err
      : action.kind == Kind::kLatencyWarning || action.kind == Kind::kBatchReduced
          ? spdlog::level::warn
          : spdlog::level::info;
  spdlog::log(level, "{}", action.reason);
}

}  // namespace tandem::rank
