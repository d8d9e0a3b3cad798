#include "launcher/world/supervision.h"

#include <string.h>
#include <sys/wait.h>

#include <csignal>

#include "absl/strings/str_cat.h"
#include "runtime/rank/exit_code.h"

namespace tandem::launcher {
namespace {

std::string SignalName(int signal) {
  const char* name = sigabbrev_np(signal);
  return name == nullptr ? absl::StrCat("signal ", signal) : absl::StrCat("SIG", name);
}

// Codes that only our own ranks end with, after a line that says why.
bool IsExplained(int code) { return code >= 64 && code <= 78; }

// As a shell would give it.
int ExitCodeOf(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The end of a world that nobody asked for: says in one line what no rank has said, and decides
// whether a new world could do better.
WorldEnd Explain(const WorldRemains& remains, const WorldOptions& options) {
  const int status = remains.status;
  const std::optional<RankEnd>& first = remains.first;
  const int code = ExitCodeOf(status);
  if (code == 0) return {};
  if (WIFEXITED(status) && IsExplained(code)) return {code, code == rank::kExitInternal, ""};
  if (WIFSIGNALED(status)) {
    return {code, true,
            absl::StrCat(options.through_mpirun ? "mpirun" : "the rank", " was killed by ",
                         SignalName(WTERMSIG(status)))};
  }
  if (first.has_value() && first->signal != 0) {
    return {code, true,
            absl::StrCat("rank ", first->rank, " on ", first->host, " was killed by ",
                         SignalName(first->signal))};
  }
  if (code > 128 && code < 128 + 65) {
    return {code, true, absl::StrCat("a rank was killed by ", SignalName(code - 128))};
  }
  return {rank::kExitInternal, true, absl::StrCat(remains.program, " ended with status ", code)};
}

}  // namespace

std::vector<WorldAction> Supervision::On(const WorldEvent& event, Clock::time_point now) {
  std::vector<WorldAction> actions;
  switch (event.kind) {
    case WorldEvent::Kind::kAsked:
      Ask(event, now, &actions);
      break;
    case WorldEvent::Kind::kOutputFailed:
      // An answer that nobody gets need not be made.
      if (!forced_) Force(now, &actions);
      break;
    case WorldEvent::Kind::kLooked:
      Look(event, now, &actions);
      break;
    case WorldEvent::Kind::kWaited:
      if (deadline_.has_value() && now >= *deadline_) Force(now, &actions);
      break;
    case WorldEvent::Kind::kEnded:
      phase_ = Phase::kEnded;
      deadline_.reset();
      break;
  }
  return actions;
}

void Supervision::Ask(const WorldEvent& event, Clock::time_point now,
                      std::vector<WorldAction>* actions) {
  if (asked_by_ != 0) {
    asked_again_ = true;
    Force(now, actions);
    return;
  }
  asked_by_ = event.signal;
  if (!options_.drains) {
    Force(now, actions);
    return;
  }
  if (phase_ == Phase::kRunning) phase_ = Phase::kDraining;
  ask_ranks_ = options_.through_mpirun && !event.ranks_seen;
  actions->push_back({.signal = SIGUSR1});
  deadline_ = now + options_.drain_timeout + options_.grace;
}

void Supervision::Look(const WorldEvent& event, Clock::time_point now,
                       std::vector<WorldAction>* actions) {
  if (ask_ranks_ && event.ranks_seen) {
    ask_ranks_ = false;
    actions->push_back({.signal = SIGUSR1});
  }
  if (forced_ || event.missing_for < options_.lost_grace) return;
  rank_died_ = true;
  actions->push_back(
      {.kind = WorldAction::Kind::kReport,
       .message = absl::StrCat("a rank has gone and mpirun has not ended the world within ",
                               options_.lost_grace.count() / 1000, " s: ending it by force")});
  Force(now, actions);
}

void Supervision::Force(Clock::time_point now, std::vector<WorldAction>* actions) {
  phase_ = forced_ ? Phase::kKilling : Phase::kTerminating;
  actions->push_back({.signal = forced_ ? SIGKILL : SIGTERM});
  forced_ = true;
  deadline_ = now + options_.grace;
}

WorldEnd Supervision::Conclude(const WorldRemains& remains) const {
  const int code = ExitCodeOf(remains.status);
  if (remains.output_failed && asked_by_ == 0 && (code == 0 || forced_)) {
    return {rank::kExitIo, false, "stdout: cannot be written"};
  }
  if (asked_by_ != 0) {
    if (!options_.drains) return {128 + asked_by_, false, ""};
    const int requeue = options_.resumable ? rank::kExitRequeue : rank::kExitInternal;
    if (forced_ && rank_died_) return {requeue, false, ""};  // reported before
    if (forced_) {
      return {requeue, false,
              asked_again_ ? "a second signal ended the world before it had drained"
                           : "the world did not end within the drain timeout"};
    }
    // The request came before any rank could take it: nothing was being done either.
    if (code == 128 + SIGUSR1) return {options_.resumable ? rank::kExitRequeue : 0, false, ""};
  }
  // What the processes that are left hold, a new world would lack.
  if (!remains.all_gone) return {rank::kExitInternal, false, ""};
  if (rank_died_) return {rank::kExitInternal, true, ""};
  return Explain(remains, options_);
}

}  // namespace tandem::launcher
