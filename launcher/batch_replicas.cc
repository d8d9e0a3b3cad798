#include "launcher/batch_replicas.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/batch_job.h"
#include "launcher/batch_progress.h"
#include "launcher/batch_stop.h"
#include "launcher/exit_code.h"
#include "runtime/server/batch_link.h"
#include "runtime/server/drain_signals.h"

namespace tandem::launcher {
namespace {

using Clock = std::chrono::steady_clock;
using server::BatchCoordinator;
using server::LineSocket;

constexpr std::chrono::milliseconds kResultInterval{50};
constexpr std::chrono::milliseconds kTokenInterval{1000};
// For replicas to end after the last row or a stop: a step may be in progress.
constexpr std::chrono::seconds kEndGrace{30};

// CPUs of replica k of n: a run of those that this process may use. Neighbours share a core or a
// socket.
std::vector<int> CpusOf(int k, int n) {
  cpu_set_t set;
  std::vector<int> all, mine;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return mine;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) all.push_back(cpu);
  }
  const size_t count = all.size();
  if (count < static_cast<size_t>(n)) return all;
  for (size_t i = count * k / n; i < count * (k + 1) / n; ++i) mine.push_back(all[i]);
  return mine;
}

// In the child; does not return.
[[noreturn]] void BecomeReplica(char** argv, const std::string& path, const std::vector<int>& cpus,
                                pid_t parent) {
  setpgid(0, 0);  // Ctrl-C is for the coordinator
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kExitInternal);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  if (!cpus.empty()) sched_setaffinity(0, sizeof(set), &set);
  setenv(kCoordinatorVariable, path.c_str(), 1);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  execv("/proc/self/exe", argv);
  _exit(kExitUnavailable);
}

// The socket's folder, and its end.
class Listener {
 public:
  static absl::StatusOr<std::unique_ptr<Listener>> Open() {
    const char* base = std::getenv("TMPDIR");
    std::string folder = absl::StrCat(base == nullptr ? "/tmp" : base, "/tandem-batch-XXXXXX");
    if (mkdtemp(folder.data()) == nullptr) {
      return OutputError(absl::StrCat(folder, ": cannot be made: ", std::strerror(errno)));
    }
    auto listener = std::unique_ptr<Listener>(new Listener(folder));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string path = listener->path();
    if (path.size() >= sizeof(address.sun_path)) {
      return OutputError(
          absl::StrCat(path, ": too long for a socket; set TMPDIR to a shorter one"));
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    listener->fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener->fd_ < 0 ||
        bind(listener->fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listener->fd_, 64) != 0) {
      return OutputError(absl::StrCat(path, ": cannot listen: ", std::strerror(errno)));
    }
    return listener;
  }
  ~Listener() {
    if (fd_ >= 0) close(fd_);
    unlink(path().c_str());
    rmdir(folder_.c_str());
  }
  std::string path() const { return absl::StrCat(folder_, "/socket"); }
  // A replica's link; -1 where none is waiting.
  int Accept() const { return accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC); }

 private:
  explicit Listener(std::string folder) : folder_(std::move(folder)) {}
  const std::string folder_;
  int fd_ = -1;
};

class ReplicaGroup {
 public:
  ReplicaGroup(const Listener& listener, BatchCoordinator& coordinator, int64_t context)
      : listener_(listener), coordinator_(coordinator), context_(context) {}
  ~ReplicaGroup() {
    for (const auto& replica : replicas_) {
      if (replica->exit_code < 0) kill(replica->pid, SIGKILL);
    }
    for (const auto& link : links_) {
      link->socket->Shutdown();
      link->thread.join();
    }
    for (const auto& replica : replicas_) {
      if (replica->exit_code < 0) waitpid(replica->pid, nullptr, 0);
    }
  }

  absl::Status Start(int count, char** argv) {
    const pid_t self = getpid();
    for (int k = 0; k < count; ++k) {
      const std::vector<int> cpus = CpusOf(k, count);
      std::fflush(nullptr);
      const pid_t pid = fork();
      if (pid < 0) {
        return absl::UnavailableError(
            absl::StrCat("cannot start a replica: ", std::strerror(errno)));
      }
      if (pid == 0) BecomeReplica(argv, listener_.path(), cpus, self);
      replicas_.push_back(std::make_unique<Process>(Process{k, pid, -1}));
    }
    return absl::OkStatus();
  }

  // New links, rows for whoever wants some, and what has become of processes. The number of
  // replicas that can still work.
  int Turn() {
    for (int fd; (fd = listener_.Accept()) >= 0;) {
      auto link = std::make_unique<Link>();
      link->socket = std::make_unique<LineSocket>(fd);
      (void)link->socket->Send({{"context", context_}});
      Link* raw = link.get();
      link->thread = std::thread([this, raw] { Listen(*raw); });
      links_.push_back(std::move(link));
    }
    for (const auto& link : links_) {
      if (link->gone) {
        TakeBack(*link);
      } else {
        HandOut(*link);
      }
    }
    int running = 0;
    for (const auto& replica : replicas_) {
      if (replica->exit_code < 0) Reap(*replica);
      if (replica->exit_code < 0) ++running;
    }
    return running;
  }

  void Tell(const nlohmann::json& message) {
    for (const auto& link : links_) {
      if (!link->gone) (void)link->socket->Send(message);
    }
  }
  // Waits for all processes to end, then insists.
  void AwaitEnd(std::chrono::seconds grace) {
    for (const Clock::time_point until = Clock::now() + grace; Clock::now() < until;) {
      if (Turn() == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  int first_failure() const { return first_failure_; }
  // From now on replicas end because they were told to.
  void ExpectEnds() { ending_ = true; }

 private:
  struct Process {
    int index = 0;
    pid_t pid = 0;
    int exit_code = -1;  // -1: runs
  };
  struct Link {
    std::unique_ptr<LineSocket> socket;
    std::thread thread;
    std::mutex mutex;
    int64_t wanted = 0;
    std::set<uint64_t> rows;  // with it
    std::atomic<bool> gone{false};
  };

  void Listen(Link& link) {
    while (const auto message = link.socket->Receive()) {
      if (message->contains("want")) {
        std::lock_guard lock(link.mutex);
        link.wanted += message->value("want", int64_t{0});
      } else if (message->contains("t")) {
        coordinator_.AddTokens(message->value("k", uint64_t{0}), message->value("c", 0),
                               (*message)["t"].get<std::vector<int32_t>>());
        continue;
      } else {
        const uint64_t key = message->value("k", uint64_t{0});
        coordinator_.Finish(key, message->value("failed", false), message->value("line", ""));
        std::lock_guard lock(link.mutex);
        link.rows.erase(key);
      }
      coordinator_.Wake();
    }
    link.gone = true;
    coordinator_.Wake();
  }

  void HandOut(Link& link) {
    while (true) {
      {
        std::lock_guard lock(link.mutex);
        if (link.wanted == 0) return;
      }
      std::optional<server::Assignment> next = coordinator_.Next();
      if (!next.has_value()) return;
      {
        std::lock_guard lock(link.mutex);
        --link.wanted;
        link.rows.insert(next->row.key);
      }
      // Where it fails the link is seen as gone next time, and the row comes back.
      (void)link.socket->Send(
          {{"line", next->row.line}, {"text", next->row.text}, {"tokens", next->tokens}});
    }
  }

  void TakeBack(Link& link) {
    std::lock_guard lock(link.mutex);
    for (const uint64_t key : link.rows) coordinator_.Return(key);
    link.rows.clear();
    link.wanted = 0;
  }

  void Reap(Process& process) {
    int status = 0;
    if (waitpid(process.pid, &status, WNOHANG) != process.pid) return;
    process.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (ending_ && (process.exit_code == 0 || process.exit_code == kExitRequeue)) return;
    if (first_failure_ == 0) first_failure_ = process.exit_code;
    std::fprintf(stderr, "tandem: replica %d has ended with %d%s\n", process.index,
                 process.exit_code, ending_ ? "" : "; its rows go to the others");
  }

  const Listener& listener_;
  BatchCoordinator& coordinator_;
  const int64_t context_;
  std::vector<std::unique_ptr<Process>> replicas_;
  std::vector<std::unique_ptr<Link>> links_;
  int first_failure_ = 0;
  bool ending_ = false;
};

}  // namespace

absl::StatusOr<int> RunReplicas(const BatchOptions& options, char** argv) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<server::DrainSignals> signals,
                          server::DrainSignals::Block());
  std::unique_ptr<BatchJob> job;
  {
    TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<BatchModel> model, OpenBatchModel(options));
    TANDEM_ASSIGN_OR_RETURN(job, OpenBatchJob(options, *model));
  }
  BatchCoordinator& coordinator = *job->coordinator;
  BatchSummary summary;
  summary.replicas = options.replicas;
  summary.counts = coordinator.counts();
  if (!coordinator.all_done()) {
    TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Listener> listener, Listener::Open());
    ReplicaGroup group(*listener, coordinator, job->context);
    TANDEM_RETURN_IF_ERROR(group.Start(options.replicas, argv));  // forks: before any thread
    const BatchStop stop(std::move(signals), options.time_limit);
    BatchProgress progress(DrawsBar());
    Clock::time_point next_results = Clock::now(), next_tokens = next_results + kTokenInterval;
    absl::Status status;
    std::string reason;
    while (status.ok() && !coordinator.all_done()) {
      reason = stop.Reason();
      if (!reason.empty()) break;
      if (group.Turn() == 0) {
        status = absl::InternalError("no replica is left; the same line again goes on");
        break;
      }
      coordinator.Wait(std::chrono::milliseconds(100));
      const Clock::time_point now = Clock::now();
      if (now >= next_results) {
        const bool with_tokens = now >= next_tokens;
        status = coordinator.Flush(with_tokens);
        next_results = Clock::now() + kResultInterval;
        if (with_tokens) next_tokens = Clock::now() + kTokenInterval;
      }
      progress.Update(coordinator.counts());
    }
    const bool disk_failed = absl::IsAborted(status);
    if (!disk_failed) {
      const absl::Status flushed = coordinator.Flush(/*with_tokens=*/true);
      if (status.ok()) status = flushed;
    }
    progress.End();
    summary.counts = coordinator.counts();
    summary.seconds = progress.seconds();
    summary.stopped = summary.counts.left() > 0;
    group.ExpectEnds();
    group.Tell(coordinator.all_done() ? nlohmann::json{{"end", true}}
                                      : nlohmann::json{{"stop", true}});
    group.AwaitEnd(kEndGrace);
    if (!status.ok()) {
      // What the replicas died of says more than that they did.
      if (absl::IsInternal(status) && group.first_failure() >= 64 && group.first_failure() <= 78) {
        return group.first_failure();
      }
      return status;
    }
    if (!reason.empty()) {
      TANDEM_RETURN_IF_ERROR(coordinator.Flush(/*with_tokens=*/true));
      std::fprintf(stderr,
                   "tandem: stopping, %s: %lld rows are left, run the same line again to go on\n",
                   reason.c_str(), static_cast<long long>(summary.counts.left()));
    }
  }
  std::printf("%s\n", SummaryJson(summary).c_str());
  if (std::fflush(stdout) != 0) return OutputError("stdout: cannot be written");
  return summary.stopped ? kExitRequeue : 0;
}

}  // namespace tandem::launcher
