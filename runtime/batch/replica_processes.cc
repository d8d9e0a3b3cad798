#include "runtime/batch/replica_processes.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/check.h"
#include "runtime/batch/progress.h"
#include "runtime/rank/exit_code.h"

namespace tandem::batch {
namespace {

constexpr char kCoordinatorVariable[] = "TANDEM_BATCH_COORDINATOR";
constexpr char kIndexVariable[] = "TANDEM_REPLICA";
constexpr char kHostsVariable[] = "TANDEM_REPLICA_HOSTS";
constexpr char kShareVariable[] = "TANDEM_HOST_SHARE";

// The line that Begin writes; "" where this end is closed without one.
std::string ReadAddress(int fd) {
  std::string text;
  char buffer[256];
  while (text.empty() || text.back() != '\n') {
    const ssize_t count = read(fd, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return "";
    text.append(buffer, static_cast<size_t>(count));
  }
  text.pop_back();
  return text;
}

// In the child; does not return.
[[noreturn]] void BecomeReplica(char** argv, const ReplicaRole& role, int address_fd,
                                pid_t parent) {
  setpgid(0, 0);  // Ctrl-C is for the coordinator
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(rank::kExitInternal);
  const std::string coordinator = ReadAddress(address_fd);
  if (coordinator.empty()) _exit(rank::kExitInternal);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  setenv(kCoordinatorVariable, coordinator.c_str(), 1);
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

absl::Status CannotStart() {
  return absl::UnavailableError(absl::StrCat("cannot start a replica: ", std::strerror(errno)));
}

}  // namespace

std::optional<ReplicaRole> ReplicaRoleOfThisProcess() {
  const auto get = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  const std::string coordinator = get(kCoordinatorVariable);
  if (coordinator.empty()) return std::nullopt;
  ReplicaRole role = {.hosts = get(kHostsVariable)};
  absl::StatusOr<CoordinatorAddress> address = CoordinatorAddress::Parse(coordinator);
  const std::vector<std::string> share = absl::StrSplit(get(kShareVariable), '/');
  // Written by BecomeReplica.
  TANDEM_CHECK(address.ok() && absl::SimpleAtoi(get(kIndexVariable), &role.index) &&
               share.size() == 2 && absl::SimpleAtoi(share[0], &role.share.index) &&
               absl::SimpleAtoi(share[1], &role.share.count));
  role.coordinator = *std::move(address);
  return role;
}

ReplicaProcesses::~ReplicaProcesses() {
  for (const Process& process : processes_) {
    if (process.address_fd >= 0) close(process.address_fd);
    if (process.exit_code < 0) kill(process.pid, SIGKILL);
  }
  for (const Process& process : processes_) {
    if (process.exit_code < 0) waitpid(process.pid, nullptr, 0);
  }
}

absl::Status ReplicaProcesses::Fork(const std::vector<HostedReplica>& replicas, char** argv) {
  const pid_t self = getpid();
  for (const HostedReplica& replica : replicas) {
    const ReplicaRole role = {.index = static_cast<int>(processes_.size()),
                              .hosts = rank::FormatHosts(replica.hosts),
                              .share = replica.share};
    int address[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, address) != 0) return CannotStart();
    std::fflush(nullptr);
    const pid_t pid = fork();
    if (pid == 0) BecomeReplica(argv, role, address[0], self);
    const int error = errno;
    close(address[0]);
    if (pid < 0) {
      close(address[1]);
      errno = error;
      return CannotStart();
    }
    processes_.push_back({role.index, role.hosts, pid, address[1]});
  }
  return absl::OkStatus();
}

void ReplicaProcesses::Begin(const CoordinatorAddress& coordinator) {
  const std::string line = coordinator.ToString() + "\n";
  for (Process& process : processes_) {
    // So short a line fits at once. It fails only for a process that has died, which Reap reports.
    (void)!send(process.address_fd, line.data(), line.size(), MSG_NOSIGNAL);
    close(std::exchange(process.address_fd, -1));
  }
}

std::vector<int> ReplicaProcesses::Reap() {
  std::vector<int> ended;
  for (Process& process : processes_) {
    if (process.exit_code >= 0 || !HasEnded(process)) continue;
    const int code = process.exit_code;
    if (ending_ && (code == 0 || code == rank::kExitRequeue)) continue;
    if (first_failure_ == 0) first_failure_ = code;
    PrintLine(absl::StrCat("tandem: replica ", process.index,
                           process.hosts.empty() ? "" : absl::StrCat(" on ", process.hosts),
                           " has ended with ", code));
    ended.push_back(process.index);
  }
  return ended;
}

bool ReplicaProcesses::HasEnded(Process& process) {
  int status = 0;
  if (waitpid(process.pid, &status, WNOHANG) != process.pid) return false;
  process.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return true;
}

int ReplicaProcesses::running() const {
  return static_cast<int>(
      std::count_if(processes_.begin(), processes_.end(),
                    [](const Process& process) { return process.exit_code < 0; }));
}

void ReplicaProcesses::Kill(int replica) {
  for (const Process& process : processes_) {
    if (process.index == replica && process.exit_code < 0) kill(process.pid, SIGKILL);
  }
}

void ReplicaProcesses::AwaitEnd(std::chrono::seconds limit) {
  using Clock = std::chrono::steady_clock;
  ending_ = true;
  for (const Clock::time_point until = Clock::now() + limit; Clock::now() < until;) {
    (void)Reap();
    if (running() == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace tandem::batch
