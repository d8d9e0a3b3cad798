#include "launcher/world/supervisor.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "launcher/world/local_ranks.h"
#include "launcher/world/output_relay.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/parent_process.h"

namespace tandem::launcher {
namespace {

using Clock = std::chrono::steady_clock;

// For killed processes to be gone.
constexpr std::chrono::seconds kOrphansEnd{10};

int Fail(const std::string& what) {
  std::fprintf(stderr, "tandem: %s\n", what.c_str());
  return rank::kExitInternal;
}

// In the child; does not return.
[[noreturn]] void Become(const std::vector<std::string>& argv, const WorldOptions& options,
                         const OutputRelay& answers, const OutputRelay& errors, pid_t launcher,
                         int restarts, const sigset_t& mask) {
  // A group of its own: Ctrl-C in a terminal is for the launcher, who knows how to pass it on.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != launcher) _exit(rank::kExitInternal);
  const pid_t parent_of_ranks = options.through_mpirun ? getpid() : launcher;
  setenv(rank::kParentVariable, absl::StrCat(parent_of_ranks).c_str(), 1);
  setenv(rank::kRestartsVariable, absl::StrCat(restarts).c_str(), 1);
  // PMIx's default has locks in shared memory: a rank that is killed holding one hangs mpirun.
  setenv(rank::kDataStoreVariable, "hash", 0);
  if (!options.pass_stdin || isatty(STDIN_FILENO)) {
    const int null = open("/dev/null", O_RDONLY);
    if (null >= 0) {
      dup2(null, STDIN_FILENO);
      close(null);
    }
  }
  if (options.relay_stdout) answers.Become();
  if (options.through_mpirun) errors.Become();
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  execv(arguments[0], arguments.data());
  std::fprintf(stderr, "tandem: cannot run %s: %s\n", arguments[0], std::strerror(errno));
  _exit(rank::kExitUnavailable);
}

// Ranks whose mpirun is gone come to us, their subreaper. They are dying already; make sure. False
// where one does not die, as in a system call that does not return.
bool EndOrphans() {
  const Clock::time_point until = Clock::now() + kOrphansEnd;
  std::string left;
  while (true) {
    left.clear();
    std::ifstream children(absl::StrCat("/proc/self/task/", getpid(), "/children"));
    for (pid_t child = 0; children >> child;) {
      kill(child, SIGKILL);
      absl::StrAppend(&left, " ", child);
    }
    const pid_t reaped = waitpid(-1, nullptr, WNOHANG);
    if (reaped < 0 && errno != EINTR) return true;
    if (reaped != 0) continue;
    if (Clock::now() >= until) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  Fail(absl::StrCat("processes of the world do not end, even by SIGKILL:", left));
  return false;
}

std::string SignalName(int signal) {
  const char* name = sigabbrev_np(signal);
  return name == nullptr ? absl::StrCat("signal ", signal) : absl::StrCat("SIG", name);
}

// Codes that only our own ranks end with, after a line that says why.
bool IsExplained(int code) { return code >= 64 && code <= 78; }

// Blocks the signals that a launcher answers to: they are waited for, not handled, and no code of
// ours runs in a handler.
class AwaitedSignals {
 public:
  AwaitedSignals() {
    sigemptyset(&set_);
    for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaddset(&set_, signal);
    sigprocmask(SIG_BLOCK, &set_, &before_);
    struct sigaction by_default {};
    by_default.sa_handler = SIG_DFL;
    sigaction(SIGCHLD, &by_default, &inherited_chld_);  // an inherited "ignore" would reap for us
  }
  ~AwaitedSignals() {
    sigaction(SIGCHLD, &inherited_chld_, nullptr);
    sigprocmask(SIG_SETMASK, &before_, nullptr);
  }

  // The mask that a child is to have.
  const sigset_t& before() const { return before_; }

  // The next signal, or -1 at this time or an hour later.
  int Wait(Clock::time_point until) const {
    const auto left =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::clamp<Clock::duration>(
            until - Clock::now(), Clock::duration::zero(), std::chrono::hours(1)));
    const timespec wait{left.count() / 1'000'000'000, left.count() % 1'000'000'000};
    return sigtimedwait(&set_, nullptr, &wait);
  }

 private:
  sigset_t set_;
  sigset_t before_;
  struct sigaction inherited_chld_ {};
};

bool AsksToFinish(int signal) {
  return signal == SIGTERM || signal == SIGINT || signal == SIGHUP || signal == SIGUSR1;
}

// How a world ended.
struct WorldEnd {
  int code = 0;         // for the shell, if nothing is tried again
  bool failed = false;  // a rank was lost: a new world may do better
};

// Says in one line what no rank has said, and decides whether a new world could do better.
WorldEnd Explain(int status, const std::optional<RankEnd>& first, const WorldOptions& options,
                 const std::string& program) {
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (code == 0) return {0, false};
  if (WIFEXITED(status) && IsExplained(code)) return {code, code == rank::kExitInternal};
  if (WIFSIGNALED(status)) {
    Fail(absl::StrCat(options.through_mpirun ? "mpirun" : "the rank", " was killed by ",
                      SignalName(WTERMSIG(status))));
    return {code, true};
  }
  if (first.has_value() && first->signal != 0) {
    Fail(absl::StrCat("rank ", first->rank, " on ", first->host, " was killed by ",
                      SignalName(first->signal)));
    return {code, true};
  }
  if (code > 128 && code < 128 + 65) {
    Fail(absl::StrCat("a rank was killed by ", SignalName(code - 128)));
    return {code, true};
  }
  return {Fail(absl::StrCat(program, " ended with status ", code)), true};
}

// One world from its start to its end, after `restarts` others. `asked_by` is the first signal that
// asked us to finish.
WorldEnd RunOnce(const std::vector<std::string>& argv, const WorldOptions& options,
                 const AwaitedSignals& signals, int restarts, int* asked_by) {
  NoticeFilter notices;
  OutputRelay answers(STDOUT_FILENO);
  OutputRelay errors(STDERR_FILENO, &notices);
  if (options.relay_stdout) {
    if (const absl::Status status = answers.Open(); !status.ok())
      return {rank::ReportError(status)};
  }
  if (options.through_mpirun) {
    if (const absl::Status status = errors.Open(); !status.ok()) return {rank::ReportError(status)};
  }
  std::fflush(nullptr);  // or the child would have our unwritten output too
  const pid_t launcher = getpid();
  const pid_t world = fork();
  if (world < 0) return {Fail(absl::StrCat("cannot start the world: ", std::strerror(errno)))};
  if (world == 0) Become(argv, options, answers, errors, launcher, restarts, signals.before());
  setpgid(world, world);                      // whoever comes first
  if (options.relay_stdout) answers.Start();  // their threads have the signals blocked, too
  if (options.through_mpirun) errors.Start();

  bool insisted = false;  // a second signal came
  bool lost = false;      // a rank has gone, and mpirun lives on
  bool unheard = false;   // the request to finish came before any rank of this host
  int force = 0;          // how often force was used: SIGTERM, then SIGKILL
  std::optional<Clock::time_point> next_force;
  const auto use_force = [&] {
    kill(world, force == 0 ? SIGTERM : SIGKILL);
    ++force;
    next_force = Clock::now() + options.grace;
  };
  LocalRanks ranks(world);

  int status = 0;
  while (true) {
    bool ended = false;
    pid_t reaped = 0;
    while ((reaped = waitpid(-1, &status, WNOHANG)) > 0) {
      if (reaped == world) {
        ended = true;
        break;
      }
    }
    if (ended) break;
    // An answer that nobody gets need not be made.
    if (answers.failed() && force == 0) use_force();
    if (options.through_mpirun && Clock::now() >= ranks.next_look()) {
      ranks.Look();
      if (unheard && ranks.any_seen()) {
        unheard = false;
        kill(world, SIGUSR1);
      }
      if (force == 0 && ranks.missing_for() >= options.lost_grace) {
        lost = true;
        Fail(absl::StrCat("a rank has gone and mpirun has not ended the world within ",
                          options.lost_grace.count() / 1000, " s: ending it by force"));
        use_force();
      }
    }

    Clock::time_point until = options.through_mpirun ? ranks.next_look() : Clock::time_point::max();
    if (next_force.has_value()) until = std::min(until, *next_force);
    const int signal = signals.Wait(until);
    if (AsksToFinish(signal)) {
      if (*asked_by == 0) {
        *asked_by = signal;
        if (options.drains) {
          if (options.through_mpirun) ranks.Look();
          unheard = options.through_mpirun && !ranks.any_seen();
          kill(world, SIGUSR1);
          next_force = Clock::now() + options.drain_timeout + options.grace;
        } else {
          use_force();
        }
      } else {
        insisted = true;
        use_force();
      }
    } else if (signal < 0 && next_force.has_value() && Clock::now() >= *next_force) {
      use_force();
    }
  }
  const bool all_gone = EndOrphans();
  for (OutputRelay* relay : {&answers, &errors}) {
    if (!all_gone) relay->Abandon();
    relay->Finish();
  }

  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (answers.failed() && *asked_by == 0 && (code == 0 || force > 0)) {
    return {rank::ReportError(rank::OutputError("stdout: cannot be written"))};
  }
  if (*asked_by != 0) {
    if (!options.drains) return {128 + *asked_by};
    if (force > 0) {
      if (!lost) {
        Fail(insisted ? "a second signal ended the world before it had drained"
                      : "the world did not end within the drain timeout");
      }
      return {options.resumable ? rank::kExitRequeue : rank::kExitInternal};
    }
    // Nobody was there yet to take the request: nothing was being done either.
    if (code == 128 + SIGUSR1) return {options.resumable ? rank::kExitRequeue : 0};
  }
  if (!all_gone) return {rank::kExitInternal};  // what they hold, a new world would lack
  if (lost) return {rank::kExitInternal, true};
  return Explain(status, notices.rank_end(), options, argv[0]);
}

}  // namespace

int RunWorld(const std::vector<std::string>& argv, const WorldOptions& options) {
  const AwaitedSignals signals;
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  int asked_by = 0;
  int failures = 0;  // in a row
  for (int restarts = 0;; ++restarts) {
    const Clock::time_point start = Clock::now();
    const WorldEnd end = RunOnce(argv, options, signals, restarts, &asked_by);
    if (!end.failed || asked_by != 0 || options.max_restarts == 0) {
      return end.failed && options.resumable ? rank::kExitInternal : end.code;
    }
    if (Clock::now() - start >= options.stable_after) failures = 0;
    if (++failures > options.max_restarts) {
      return Fail(absl::StrCat("giving up: ", failures, " worlds in a row failed within ",
                               options.stable_after.count() / 1000, " s of their start"));
    }
    const auto pause = std::min<Clock::duration>(
        options.first_pause * (int64_t{1} << std::min(failures - 1, 20)), options.longest_pause);
    std::fprintf(stderr, "tandem: starting the world again in %.1f s (%d of %d)\n",
                 std::chrono::duration<double>(pause).count(), failures, options.max_restarts);
    for (const Clock::time_point until = Clock::now() + pause; Clock::now() < until;) {
      if (AsksToFinish(signals.Wait(until))) return 0;  // nothing is being served
    }
  }
}

}  // namespace tandem::launcher
