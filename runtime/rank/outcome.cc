#include "runtime/rank/outcome.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/rank/exit_code.h"

namespace tandem::rank {
namespace {

using Ending = RankOutcome::Ending;

RankOutcome ReportAndAbort(parallel::MpiWorld* world, const absl::Status& error, Ending ending) {
  if (world == nullptr) return {ending, ReportError(error)};
  const int code = ReportError(absl::Status(
      error.code(), absl::StrCat("rank ", world->rank(), ": ", std::string(error.message()))));
  if (world->size() > 1) world->Abort(code);
  return {ending, code};
}

}  // namespace

RankOutcome Done(int exit_code) { return {Ending::kDone, exit_code}; }

RankOutcome ReportAgreedError(parallel::MpiWorld* world, const absl::Status& error) {
  if (ExchangeTimedOut(error)) return AbortAfterRankFailure(world, error);
  const bool reports = world == nullptr || world->rank() == 0;
  return {Ending::kAgreedError, reports ? ReportError(error) : ExitCode(error)};
}

RankOutcome AbortWorld(parallel::MpiWorld* world, const absl::Status& error) {
  if (ExchangeTimedOut(error)) return AbortAfterRankFailure(world, error);
  return ReportAndAbort(world, error, Ending::kOwnError);
}

RankOutcome AbortAfterRankFailure(parallel::MpiWorld* world, const absl::Status& error) {
  return ReportAndAbort(world, absl::InternalError(std::string(error.message())),
                        Ending::kRankFailure);
}

RankOutcome ReportOwnError(const absl::Status& error) {
  return {Ending::kOwnError, ReportError(error)};
}

bool IsRankFailure(const parallel::MpiWorld* world, const absl::Status& step) {
  return world != nullptr && world->size() > 1 && absl::IsUnavailable(step);
}

bool ExchangeTimedOut(const absl::Status& exchange) { return absl::IsDeadlineExceeded(exchange); }

}  // namespace tandem::rank
