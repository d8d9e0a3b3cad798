#include "launcher/world/start.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/world/mpirun.h"
#include "runtime/rank/cpu_binding.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/host_list.h"
#include "runtime/rank/parent_process.h"

namespace tandem::launcher {
namespace {

const char* Environment(const char* name) { return std::getenv(name); }

absl::StatusOr<std::string> OwnPath() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0 || length == static_cast<ssize_t>(sizeof(path))) {
    return absl::InternalError("cannot find this program's own path");
  }
  return std::string(path, static_cast<size_t>(length));
}

// This process is a rank of a world of `size` ranks.
absl::StatusOr<int> RunRank(const StartOptions& options, int size,
                            const std::function<absl::StatusOr<int>()>& rank) {
  TANDEM_RETURN_IF_ERROR(rank::DieWithParent());
  if (!options.hosts.empty() && !rank::StartedByLauncher()) {
    return absl::InvalidArgumentError(
        "--hosts: found in a process that mpirun or srun started, expected without them");
  }
  if (options.tp != 0 && options.tp != size) {
    // Every rank finds this error; one reports it.
    if (!IsFirstRank(Environment)) return rank::kExitConfig;
    return absl::FailedPreconditionError(absl::StrCat("--tp ", options.tp, ", but this world has ",
                                                      size, size == 1 ? " rank" : " ranks"));
  }
  return rank();
}

// How many ranks to start: --tp, or the slots of the hosts, or the sockets of this host.
int RanksToStart(const StartOptions& options, const std::vector<rank::HostSlots>& hosts,
                 bool has_mpirun) {
  if (options.tp != 0) return options.tp;
  int ranks = 0;
  for (const rank::HostSlots& host : hosts) ranks += host.slots;
  if (ranks > 0) return ranks;
  const absl::StatusOr<rank::Topology> topology = rank::Topology::Load();
  ranks = topology.ok() && has_mpirun ? topology->MemorySockets(rank::AllowedCpus()) : 1;
  if (ranks > 1) std::fprintf(stderr, "tandem: %d ranks, one for each socket (see --tp)\n", ranks);
  return ranks;
}

}  // namespace

absl::StatusOr<int> RunRankOrWorld(const StartOptions& options, char** argv,
                                   const std::function<absl::StatusOr<int>()>& rank) {
  TANDEM_ASSIGN_OR_RETURN(const std::optional<int> world, rank::FindWorld(Environment));
  if (world.has_value() || rank::StartedByLauncher()) {
    return RunRank(options, world.value_or(1), rank);
  }
  const absl::StatusOr<std::string> mpirun = FindProgram("mpirun", Environment);
  std::vector<rank::HostSlots> hosts;
  if (!options.hosts.empty()) {
    TANDEM_ASSIGN_OR_RETURN(hosts, rank::ParseHosts(options.hosts));
  }
  const int ranks = RanksToStart(options, hosts, mpirun.ok());
  if (ranks == 1 && hosts.empty() && options.alone_in_process) return rank();

  TANDEM_ASSIGN_OR_RETURN(const std::string self, OwnPath());
  std::vector<std::string> command = {self};
  for (char** argument = argv + 1; *argument != nullptr; ++argument) command.push_back(*argument);
  WorldOptions supervised = options.world;
  supervised.through_mpirun = ranks > 1 || !hosts.empty();
  if (supervised.through_mpirun) {
    TANDEM_RETURN_IF_ERROR(mpirun.status());
    command = MpirunCommand(*mpirun, geteuid() == 0, ranks, hosts, ExportedVariables(environ),
                            command, Environment);
  }
  return RunWorld(command, supervised);
}

bool IsFirstRank(const rank::GetEnv& get_env) {
  const char* rank = get_env("PMIX_RANK");
  return rank == nullptr || std::strcmp(rank, "0") == 0;
}

}  // namespace tandem::launcher
