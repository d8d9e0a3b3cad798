#include "runtime/rank/join.h"

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

// Called when MPI's own start or end takes too long. MPI_Abort may hang then, so only this process
// ends; mpirun ends the others.
void ExitAfterMpiTimeout(const absl::Status& status) {
  const char* rank = std::getenv("PMIX_RANK");
  ReportError(absl::InternalError(
      absl::StrCat("rank ", rank == nullptr ? "?" : rank, ": ", std::string(status.message()))));
  _exit(kExitInternal);
}

}  // namespace

absl::StatusOr<JoinedWorld> JoinWorld(const JoinOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(
      const std::optional<int> size,
      FindWorld([](const char* name) -> const char* { return std::getenv(name); }));
  JoinedWorld joined;
  if (size.has_value()) {
    const auto patience =
        std::chrono::milliseconds(static_cast<int64_t>(options.start_timeout * 1e3));
    TANDEM_ASSIGN_OR_RETURN(joined.world,
                            parallel::MpiWorld::Start(patience, &ExitAfterMpiTimeout));
    joined.communicator = joined.world->MakeControlGroup();
  } else {
    joined.communicator = std::make_unique<parallel::SelfGroup>();
  }
  StartLog(joined.rank(), options.log_level);
  return joined;
}

}  // namespace tandem::rank
