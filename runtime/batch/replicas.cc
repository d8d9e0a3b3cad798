#include "runtime/batch/replicas.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/batch/job.h"
#include "runtime/batch/link.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/replica_links.h"
#include "runtime/batch/replica_places.h"
#include "runtime/batch/stop.h"
#include "runtime/rank/exit_code.h"
#include "runtime/server/drain_signals.h"

namespace tandem::batch {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kResultInterval{50};
constexpr std::chrono::milliseconds kTokenInterval{1000};
// For replicas to end after the last row or a stop: a step may be in progress.
constexpr std::chrono::seconds kEndGrace{30};

constexpr char kCoordinatorVariable[] = "TANDEM_BATCH_COORDINATOR";
constexpr char kIndexVariable[] = "TANDEM_REPLICA";
constexpr char kHostsVariable[] = "TANDEM_REPLICA_HOSTS";
constexpr char kShareVariable[] = "TANDEM_HOST_SHARE";

// In the child; does not return.
[[noreturn]] void BecomeReplica(char** argv, const ReplicaRole& role, pid_t parent) {
  setpgid(0, 0);  // Ctrl-C is for the coordinator
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(rank::kExitInternal);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  setenv(kCoordinatorVariable, role.coordinator.c_str(), 1);
  setenv(kIndexVariable, absl::StrCat(role.index).c_str(), 1);
  setenv(kHostsVariable, role.hosts.c_str(), 1);
  setenv(kShareVariable, absl::StrCat(role.share.index, "/", role.share.count).c_str(), 1);
  // In a Slurm job mpirun reaches other nodes by steps: those of several replicas run side by side.
  setenv("SLURM_OVERLAP", "1", 0);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  execv("/proc/self/exe", argv);
  _exit(rank::kExitUnavailable);
}

// The processes of replicas.
class ReplicaGroup {
 public:
  ~ReplicaGroup() {
    for (const Process& replica : processes_) {
      if (replica.exit_code < 0) kill(replica.pid, SIGKILL);
    }
    for (const Process& replica : processes_) {
      if (replica.exit_code < 0) waitpid(replica.pid, nullptr, 0);
    }
  }

  absl::Status Start(const std::vector<HostedReplica>& replicas, const std::string& coordinator,
                     char** argv) {
    const pid_t self = getpid();
    for (const HostedReplica& replica : replicas) {
      const ReplicaRole role = {.coordinator = coordinator,
                                .index = static_cast<int>(processes_.size()),
                                .hosts = rank::FormatHosts(replica.hosts),
                                .share = replica.share};
      std::fflush(nullptr);
      const pid_t pid = fork();
      if (pid < 0) {
        return absl::UnavailableError(
            absl::StrCat("cannot start a replica: ", std::strerror(errno)));
      }
      if (pid == 0) BecomeReplica(argv, role, self);
      processes_.push_back({role.index, role.hosts, pid, -1});
    }
    return absl::OkStatus();
  }

  // Sees what has become of processes. The number of those that run.
  int Turn(ReplicaLinks& links) {
    int running = 0;
    for (Process& process : processes_) {
      if (process.exit_code < 0) Reap(process, links);
      if (process.exit_code < 0) ++running;
    }
    return running;
  }

  void Kill(int replica) {
    for (const Process& process : processes_) {
      if (process.index == replica && process.exit_code < 0) kill(process.pid, SIGKILL);
    }
  }

  // Waits for all to end.
  void AwaitEnd(ReplicaLinks& links, std::chrono::seconds grace) {
    ending_ = true;
    for (const Clock::time_point until = Clock::now() + grace; Clock::now() < until;) {
      if (Turn(links) == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  int first_failure() const { return first_failure_; }

 private:
  struct Process {
    int index = 0;
    std::string hosts;
    pid_t pid = 0;
    int exit_code = -1;  // -1: runs
  };

  void Reap(Process& process, ReplicaLinks& links) {
    int status = 0;
    if (waitpid(process.pid, &status, WNOHANG) != process.pid) return;
    process.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (ending_ && (process.exit_code == 0 || process.exit_code == rank::kExitRequeue)) return;
    if (first_failure_ == 0) first_failure_ = process.exit_code;
    TellLine(absl::StrCat("tandem: replica ", process.index,
                          process.hosts.empty() ? "" : absl::StrCat(" on ", process.hosts),
                          " has ended with ", process.exit_code));
    links.Lose(process.index);
  }

  std::vector<Process> processes_;
  int first_failure_ = 0;
  bool ending_ = false;
};

}  // namespace

std::optional<ReplicaRole> ReplicaRoleOfThisProcess() {
  const auto get = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  ReplicaRole role = {.coordinator = get(kCoordinatorVariable), .hosts = get(kHostsVariable)};
  if (role.coordinator.empty()) return std::nullopt;
  const std::vector<std::string> share = absl::StrSplit(get(kShareVariable), '/');
  // Written by BecomeReplica.
  TANDEM_CHECK(absl::SimpleAtoi(get(kIndexVariable), &role.index) && share.size() == 2 &&
               absl::SimpleAtoi(share[0], &role.share.index) &&
               absl::SimpleAtoi(share[1], &role.share.count));
  return role;
}

absl::StatusOr<std::vector<HostedReplica>> ReplicasOf(const JobOptions& options) {
  std::vector<HostedReplica> replicas;
  if (options.hosts.empty()) {
    const int count = std::max(1, options.replicas);
    for (int k = 0; k < count; ++k) {
      replicas.push_back({.share = {.index = k, .count = count}});
    }
    return replicas;
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<rank::HostSlots> hosts,
                          rank::ParseHosts(options.hosts));
  std::vector<int> slots;
  for (const rank::HostSlots& host : hosts) slots.push_back(host.slots);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<ReplicaPlace> places,
                          CutReplicas(slots, options.tp, options.replicas));
  for (const ReplicaPlace& place : places) {
    HostedReplica& replica = replicas.emplace_back();
    replica.share = place.share;
    for (const auto& [host, ranks] : place.ranks) {
      replica.hosts.push_back({hosts[host].name, ranks});
    }
  }
  return replicas;
}

absl::StatusOr<int> RunReplicas(const JobOptions& options,
                                const std::vector<HostedReplica>& replicas, char** argv) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<server::DrainSignals> signals,
                          server::DrainSignals::Block());
  std::unique_ptr<BatchJob> job;
  {
    TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<BatchModel> model, OpenBatchModel(options));
    TANDEM_ASSIGN_OR_RETURN(job, OpenBatchJob(options, *model));
  }
  BatchCoordinator& coordinator = *job->coordinator;
  BatchSummary summary;
  summary.replicas = static_cast<int>(replicas.size());
  summary.counts = coordinator.counts();
  if (!coordinator.all_done()) {
    TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<LinkListener> listener,
                            LinkListener::Open(!options.hosts.empty()));
    ReplicaGroup group;
    // Forks: before any thread.
    TANDEM_RETURN_IF_ERROR(group.Start(replicas, listener->coordinator(), argv));
    ReplicaLinks links(*listener, coordinator, job->context, summary.replicas,
                       parallel::kPatientStep + 2 * kHeartbeat);
    const BatchStop stop(std::move(signals), options.time_limit, /*leaves_early=*/false);
    BatchProgress progress(options.progress_interval);
    Clock::time_point next_results = Clock::now(), next_tokens = next_results + kTokenInterval;
    absl::Status status;
    std::string reason;
    while (status.ok() && !coordinator.all_done()) {
      reason = stop.Reason();
      if (!reason.empty()) break;
      links.HandOut();
      for (const int replica : links.TakeStalled()) group.Kill(replica);
      if (group.Turn(links) == 0) {
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
    summary.replicas_lost = links.lost();
    links.Tell(coordinator.all_done() ? nlohmann::json{{"end", true}}
                                      : nlohmann::json{{"stop", true}});
    group.AwaitEnd(links, kEndGrace);
    if (!status.ok()) {
      // What the replicas died of says more than that they did, where the first had it from the
      // start: such as a model that is not there.
      if (absl::IsInternal(status) && summary.counts.finished == 0 && group.first_failure() >= 64 &&
          group.first_failure() <= 78) {
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
  if (std::fflush(stdout) != 0) return rank::OutputError("stdout: cannot be written");
  return summary.stopped ? rank::kExitRequeue : 0;
}

}  // namespace tandem::batch
