#include "runtime/rank/place.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "runtime/plan/host_limits.h"

namespace tandem::rank {
namespace {

// RankPlace as ranks exchange it.
struct PlaceMessage {
  char host[HOST_NAME_MAX + 1] = {};
  char pid_namespace[128] = {};
  pid_t pid = 0;
};

// RankCpus as ranks of a host exchange it.
struct CpuMessage {
  cpu_set_t allowed;
  int threads;
  int quota;
};

PlaceMessage OwnPlace() {
  PlaceMessage mine;
  gethostname(mine.host, HOST_NAME_MAX);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char name_space[64] = {};
  if (readlink("/proc/self/ns/pid", name_space, sizeof(name_space) - 1) < 0) name_space[0] = '?';
  std::snprintf(mine.pid_namespace, sizeof(mine.pid_namespace), "%s %s", boot.c_str(), name_space);
  mine.pid = getpid();
  return mine;
}

absl::StatusOr<std::vector<RankPlace>> GatherPlaces(parallel::ControlGroup& group) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<PlaceMessage> all,
                          parallel::AllGather(group, OwnPlace()));
  std::vector<RankPlace> places;
  for (const PlaceMessage& place : all) {
    places.push_back({place.host, place.pid_namespace, place.pid});
  }
  return places;
}

CpuMessage MessageOf(const RankCpus& cpus) {
  CpuMessage message = {.allowed = {}, .threads = cpus.threads, .quota = cpus.quota};
  for (const int cpu : cpus.allowed) CPU_SET(cpu, &message.allowed);
  return message;
}

RankCpus CpusOf(const CpuMessage& message) {
  RankCpus cpus = {.allowed = {}, .threads = message.threads, .quota = message.quota};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &message.allowed)) cpus.allowed.push_back(cpu);
  }
  return cpus;
}

// What this rank may use of its host.
RankCpus OwnCpus(const RankOptions& options, const absl::StatusOr<Topology>& topology) {
  RankCpus mine = {.allowed = AllowedCpus(), .threads = options.threads};
  const int usable = plan::AvailableCpus();
  if (usable < static_cast<int>(mine.allowed.size())) {
    mine.quota = std::max(1, usable / options.memory.count);
  }
  if (topology.ok()) mine.allowed = CpusOfShare(*topology, mine.allowed, options.cpus);
  return mine;
}

Binding Unbound(int threads, const absl::Status& why) {
  return {.threads = threads,
          .description =
              absl::StrCat(threads, " threads, not bound (", std::string(why.message()), ")")};
}

// Binds this thread, and so those that it starts, to its CPU. Where the system refuses it, it would
// refuse the kernels' threads too: none is bound then.
Binding BindToFirst(Binding binding) {
  if (binding.cpus.empty()) return binding;
  const absl::Status bound = BindThisThread(binding.cpus[0]);
  if (bound.ok()) return binding;
  Binding unbound = Unbound(binding.threads, bound);
  unbound.own_cores = binding.own_cores;
  return unbound;
}

}  // namespace

absl::StatusOr<Placement> PlaceRank(const parallel::MpiWorld* world, parallel::ControlGroup& group,
                                    const RankOptions& options) {
  Placement placed;
  placed.stream_cpus = AllowedCpus();
  const absl::StatusOr<Topology> topology = Topology::Load();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<CpuMessage> all,
                          parallel::AllGather(group, MessageOf(OwnCpus(options, topology))));
  std::vector<RankCpus> here;  // of this host's ranks
  size_t mine = 0;             // this rank, among them
  for (int r = 0; r < group.size(); ++r) {
    if (world != nullptr && world->host_of()[r] != world->host_of()[group.rank()]) continue;
    if (r == group.rank()) mine = here.size();
    here.push_back(CpusOf(all[r]));
  }
  placed.local_size = static_cast<int>(here.size());
  placed.ranks_on_host = placed.local_size * options.memory.count;
  placed.local_rank = options.memory.index * placed.local_size + static_cast<int>(mine);
  if (topology.ok()) {
    placed.binding = BindToFirst(BindRanks(*topology, here, options.bind)[mine]);
  } else {
    const int threads = options.threads > 0
                            ? options.threads
                            : std::max(1, plan::AvailableCpus() / placed.ranks_on_host);
    placed.binding = Unbound(threads, topology.status());
  }
  TANDEM_ASSIGN_OR_RETURN(placed.bindings, group.AllGatherBytes(placed.binding.description));
  TANDEM_ASSIGN_OR_RETURN(placed.places, GatherPlaces(group));
  return placed;
}

}  // namespace tandem::rank
