#include "launcher/supervisor.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "launcher/exit_code.h"
#include "launcher/output_relay.h"
#include "launcher/process_group.h"

namespace tandem::launcher {
namespace {

using Clock = std::chrono::steady_clock;

int Fail(const std::string& what) {
  std::fprintf(stderr, "tandem: %s\n", what.c_str());
  return kExitInternal;
}

// In the child; does not return.
[[noreturn]] void Become(const std::vector<std::string>& argv, const WorldOptions& options,
                         const OutputRelay& relay, pid_t launcher, const sigset_t& mask) {
  // A group of its own: Ctrl-C in a terminal is for the launcher, who knows how to pass it on.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != launcher) _exit(kExitInternal);
  const pid_t parent_of_ranks = options.through_mpirun ? getpid() : launcher;
  setenv(kParentVariable, absl::StrCat(parent_of_ranks).c_str(), 1);
  if (!options.pass_stdin || isatty(STDIN_FILENO)) {
    const int null = open("/dev/null", O_RDONLY);
    if (null >= 0) {
      dup2(null, STDIN_FILENO);
      close(null);
    }
  }
  if (options.relay_stdout) relay.BecomeStdout();
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  execv(arguments[0], arguments.data());
  std::fprintf(stderr, "tandem: cannot run %s: %s\n", arguments[0], std::strerror(errno));
  _exit(kExitUnavailable);
}

// Ranks whose mpirun is gone come to us, their subreaper. They are dying already; make sure.
void EndOrphans() {
  while (true) {
    std::ifstream children(absl::StrCat("/proc/self/task/", getpid(), "/children"));
    pid_t child = 0;
    while (children >> child) kill(child, SIGKILL);
    const pid_t reaped = waitpid(-1, nullptr, 0);
    if (reaped < 0 && errno != EINTR) return;
  }
}

std::string SignalName(int signal) {
  const char* name = sigabbrev_np(signal);
  return name == nullptr ? absl::StrCat("signal ", signal) : absl::StrCat("SIG", name);
}

// Codes that only our own ranks end with, after a line that says why.
bool IsExplained(int code) { return code >= 64 && code <= 78; }

}  // namespace

int RunWorld(const std::vector<std::string>& argv, const WorldOptions& options) {
  // Signals are waited for, not handled: no code of ours runs in a handler.
  sigset_t awaited;
  sigset_t before;
  sigemptyset(&awaited);
  for (const int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&awaited, signal);
  sigprocmask(SIG_BLOCK, &awaited, &before);
  struct sigaction inherited_chld {};
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &by_default, &inherited_chld);  // an inherited "ignore" would reap for us
  prctl(PR_SET_CHILD_SUBREAPER, 1);

  OutputRelay relay;
  if (options.relay_stdout) {
    if (const absl::Status status = relay.Open(); !status.ok()) return ReportError(status);
  }
  std::fflush(nullptr);  // or the child would have our unwritten output too
  const pid_t launcher = getpid();
  const pid_t world = fork();
  if (world < 0) return Fail(absl::StrCat("cannot start the world: ", std::strerror(errno)));
  if (world == 0) Become(argv, options, relay, launcher, before);
  setpgid(world, world);  // whoever comes first
  if (options.relay_stdout) relay.Start();  // its thread has the signals blocked, too

  int asked_by = 0;       // the first signal
  bool insisted = false;  // a second one came
  int force = 0;          // how often force was used: SIGTERM, then SIGKILL
  std::optional<Clock::time_point> next_force;
  const auto use_force = [&] {
    kill(world, force == 0 ? SIGTERM : SIGKILL);
    ++force;
    next_force = Clock::now() + options.grace;
  };

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
    if (relay.failed() && force == 0) use_force();

    timespec wait{3600, 0};
    if (next_force.has_value()) {
      const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(
          std::max(Clock::duration::zero(), *next_force - Clock::now()));
      wait = {left.count() / 1'000'000'000, left.count() % 1'000'000'000};
    }
    const int signal = sigtimedwait(&awaited, nullptr, &wait);
    if (signal == SIGTERM || signal == SIGINT || signal == SIGHUP) {
      if (asked_by == 0) {
        asked_by = signal;
        if (options.drains) {
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
  EndOrphans();
  relay.Finish();
  sigaction(SIGCHLD, &inherited_chld, nullptr);
  sigprocmask(SIG_SETMASK, &before, nullptr);

  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (relay.failed() && asked_by == 0 && (code == 0 || force > 0)) {
    return ReportError(OutputError("stdout: cannot be written"));
  }
  if (asked_by != 0) {
    if (!options.drains) return 128 + asked_by;
    if (force > 0) {
      return Fail(insisted ? "a second signal ended the world before it had drained"
                           : "the world did not end within the drain timeout");
    }
    // Nobody was there yet to take the request: nothing was being served either.
    if (code == 128 + SIGUSR1) return 0;
  }
  if (code == 0 || (WIFEXITED(status) && IsExplained(code))) return code;
  if (WIFSIGNALED(status)) {
    Fail(absl::StrCat(options.through_mpirun ? "mpirun" : "the rank", " was killed by ",
                      SignalName(WTERMSIG(status))));
    return code;
  }
  if (code > 128 && code < 128 + 65) {
    Fail(absl::StrCat("a rank was killed by ", SignalName(code - 128)));
    return code;
  }
  return Fail(absl::StrCat(argv[0], " ended with status ", code));
}

}  // namespace tandem::launcher
