// The processes of a batch job's replicas, as the coordinator's process starts and watches them,
// and what such a process finds in its environment.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/batch/link.h"
#include "runtime/rank/cpu_binding.h"
#include "runtime/rank/host_list.h"

namespace tandem::batch {

// What the processes of a replica learn through the environment.
struct ReplicaRole {
  CoordinatorAddress coordinator;
  int index = 0;
  std::string hosts;      // to start its ranks on, as ParseHosts reads them; empty: this one
  rank::HostShare share;  // of each of its hosts
};
// nullopt in a process that is not a replica's.
std::optional<ReplicaRole> ReplicaRoleOfThisProcess();

struct HostedReplica {
  std::vector<rank::HostSlots> hosts;  // empty: this one
  rank::HostShare share;
};

class ReplicaProcesses {
 public:
  ReplicaProcesses() = default;
  // Kills those that still run.
  ~ReplicaProcesses();
  ReplicaProcesses(const ReplicaProcesses&) = delete;
  ReplicaProcesses& operator=(const ReplicaProcesses&) = delete;

  // Forks one process for each replica, which waits for Begin and then executes this binary with
  // `argv`. This process must have no other thread yet: gRPC, which does not survive a fork, is
  // started between Fork and Begin.
  absl::Status Fork(const std::vector<HostedReplica>& replicas, char** argv);
  // Lets them work for the coordinator at that address.
  void Begin(const CoordinatorAddress& coordinator);

  // Replicas whose processes have ended since the last call, each reported on stderr with its exit
  // code.
  std::vector<int> Reap();
  int running() const;
  void Kill(int replica);
  // Waits until all have ended, at most `limit`. Exit codes of a job's end are not reported.
  void AwaitEnd(std::chrono::seconds limit);
  // The exit code of the first that ended too early; 0: none has.
  int first_failure() const { return first_failure_; }

 private:
  struct Process {
    int index = 0;
    std::string hosts;
    pid_t pid = 0;
    int address_fd = -1;  // a socket, at whose other end it waits for the address; -1: done
    int exit_code = -1;   // -1: runs
  };

  bool HasEnded(Process& process);

  std::vector<Process> processes_;
  int first_failure_ = 0;
  bool ending_ = false;
};

}  // namespace tandem::batch
