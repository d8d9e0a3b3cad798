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

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/world/local_ranks.h"
#include "launcher/world/output_relay.h"
#include "launcher/world/supervision.h"
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

// Kills what is left of a world: ranks whose mpirun is gone become children of this process, their
// subreaper. They are dying already; this makes sure. False where one does not die, such as in a
// system call that does not return.
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

// One world as a process, with what it writes.
class World {
 public:
  World(const std::vector<std::string>& argv, const WorldOptions& options)
      : argv_(argv),
        options_(options),
        answers_(STDOUT_FILENO),
        errors_(STDERR_FILENO, &notices_) {}

  // Starts the world, after `restarts` others.
  absl::Status Start(const AwaitedSignals& signals, int restarts) {
    if (options_.relay_stdout) TANDEM_RETURN_IF_ERROR(answers_.Open());
    if (options_.through_mpirun) TANDEM_RETURN_IF_ERROR(errors_.Open());
    std::fflush(nullptr);  // or the child would have our unwritten output too
    const pid_t launcher = getpid();
    pid_ = fork();
    if (pid_ < 0) {
      return absl::InternalError(absl::StrCat("cannot start the world: ", std::strerror(errno)));
    }
    if (pid_ == 0) Become(launcher, restarts, signals.before());
    setpgid(pid_, pid_);                          // here and in the child: whichever is first
    if (options_.relay_stdout) answers_.Start();  // their threads have the signals blocked, too
    if (options_.through_mpirun) errors_.Start();
    return absl::OkStatus();
  }

  pid_t pid() const { return pid_; }
  bool output_failed() const { return answers_.failed(); }

  // Whether the world's process has ended. Reaps other children as well.
  bool HasEnded() {
    pid_t reaped = 0;
    while ((reaped = waitpid(-1, &status_, WNOHANG)) > 0) {
      if (reaped == pid_) return true;
    }
    return false;
  }

  // Ends what is left of it and passes the rest of its output on.
  WorldRemains Finish() {
    const bool all_gone = EndOrphans();
    for (OutputRelay* relay : {&answers_, &errors_}) {
      if (!all_gone) relay->Abandon();
      relay->Finish();
    }
    return {.status = status_,
            .all_gone = all_gone,
            .output_failed = answers_.failed(),
            .first = notices_.rank_end(),
            .program = argv_[0]};
  }

 private:
  // In the child; does not return.
  [[noreturn]] void Become(pid_t launcher, int restarts, const sigset_t& mask) const {
    // A group of its own: Ctrl-C in a terminal is for the launcher, which passes it on.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != launcher) _exit(rank::kExitInternal);
    const pid_t parent_of_ranks = options_.through_mpirun ? getpid() : launcher;
    setenv(rank::kParentVariable, absl::StrCat(parent_of_ranks).c_str(), 1);
    setenv(rank::kRestartsVariable, absl::StrCat(restarts).c_str(), 1);
    // PMIx's default has locks in shared memory: a rank that is killed holding one hangs mpirun.
    setenv(rank::kDataStoreVariable, "hash", 0);
    if (!options_.pass_stdin || isatty(STDIN_FILENO)) {
      const int null = open("/dev/null", O_RDONLY);
      if (null >= 0) {
        dup2(null, STDIN_FILENO);
        close(null);
      }
    }
    if (options_.relay_stdout) answers_.Become();
    if (options_.through_mpirun) errors_.Become();
    std::vector<char*> arguments;
    for (const std::string& argument : argv_)
      arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    execv(arguments[0], arguments.data());
    std::fprintf(stderr, "tandem: cannot run %s: %s\n", arguments[0], std::strerror(errno));
    _exit(rank::kExitUnavailable);
  }

  const std::vector<std::string>& argv_;
  const WorldOptions& options_;
  NoticeFilter notices_;
  OutputRelay answers_;
  OutputRelay errors_;
  pid_t pid_ = -1;
  int status_ = 0;
};

// Feeds the state machine with what happens to the world, until its process has ended.
void Watch(World& world, const WorldOptions& options, const AwaitedSignals& signals,
           Supervision& supervision) {
  using Kind = WorldEvent::Kind;
  const auto on = [&](const WorldEvent& event) {
    for (const WorldAction& action : supervision.On(event, Clock::now())) {
      if (action.kind == WorldAction::Kind::kReport) Fail(action.message);
      if (action.kind == WorldAction::Kind::kSignal) kill(world.pid(), action.signal);
    }
  };
  LocalRanks ranks(world.pid());
  while (!world.HasEnded()) {
    if (world.output_failed()) on({.kind = Kind::kOutputFailed});
    if (options.through_mpirun && Clock::now() >= ranks.next_look()) {
      ranks.Look();
      on({.kind = Kind::kLooked,
          .ranks_seen = ranks.any_seen(),
          .missing_for = ranks.missing_for()});
    }
    Clock::time_point until = options.through_mpirun ? ranks.next_look() : Clock::time_point::max();
    until = std::min(until, supervision.deadline().value_or(until));
    const int signal = signals.Wait(until);
    if (AsksToFinish(signal)) {
      if (options.through_mpirun && options.drains && supervision.asked_by() == 0) ranks.Look();
      on({.kind = Kind::kAsked, .signal = signal, .ranks_seen = ranks.any_seen()});
    } else if (signal < 0) {
      on({.kind = Kind::kWaited});
    }
  }
  on({.kind = Kind::kEnded});
}

// One world from its start to its end, after `restarts` others. `asked_by`: the signal that asked
// to finish, or 0.
WorldEnd RunOnce(const std::vector<std::string>& argv, const WorldOptions& options,
                 const AwaitedSignals& signals, int restarts, int* asked_by) {
  World world(argv, options);
  if (const absl::Status started = world.Start(signals, restarts); !started.ok()) {
    return {.code = rank::ReportError(started)};
  }
  Supervision supervision(options);
  Watch(world, options, signals, supervision);
  *asked_by = supervision.asked_by();
  WorldEnd end = supervision.Conclude(world.Finish());
  if (!end.message.empty()) Fail(end.message);
  return end;
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
