#include "runtime/rank/cpu_binding.h"

#include <hwloc.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tandem::rank {
namespace {

using CoreList = std::vector<Topology::Core>;

int CpuCount(const CoreList& cores) {
  int cpus = 0;
  for (const Topology::Core& core : cores) cpus += static_cast<int>(core.cpus.size());
  return cpus;
}

// One CPU for each thread: first one of each core, then the second CPUs of the cores, and so on.
std::vector<int> SpreadThreads(const CoreList& cores, int threads) {
  std::vector<int> cpus;
  for (size_t turn = 0; static_cast<int>(cpus.size()) < threads; ++turn) {
    for (const Topology::Core& core : cores) {
      if (turn < core.cpus.size() && static_cast<int>(cpus.size()) < threads) {
        cpus.push_back(core.cpus[turn]);
      }
    }
  }
  return cpus;
}

std::string Sockets(const CoreList& cores, const std::vector<int>& cpus) {
  std::set<int> sockets;
  for (const Topology::Core& core : cores) {
    for (const int cpu : core.cpus) {
      if (std::find(cpus.begin(), cpus.end(), cpu) != cpus.end()) sockets.insert(core.socket);
    }
  }
  return absl::StrCat(sockets.size() == 1 ? "socket " : "sockets ", absl::StrJoin(sockets, ","));
}

bool Overlap(const std::vector<int>& a, const std::vector<int>& b) {
  std::vector<int> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return !both.empty();
}

std::string Threads(int threads) {
  return absl::StrCat(threads, threads == 1 ? " thread" : " threads");
}

}  // namespace

void Topology::Delete::operator()(hwloc_topology* topology) const {
  hwloc_topology_destroy(topology);
}

absl::StatusOr<Topology> Topology::Load() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return absl::UnavailableError("hwloc does not start");
  Topology made(topology);
  if (hwloc_topology_load(topology) != 0) {
    return absl::UnavailableError("hwloc cannot read this machine's topology");
  }
  return made;
}

absl::StatusOr<Topology> Topology::Synthetic(const std::string& description) {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return absl::UnavailableError("hwloc does not start");
  Topology made(topology);
  if (hwloc_topology_set_synthetic(topology, description.c_str()) != 0 ||
      hwloc_topology_load(topology) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("topology: found '", description, "'"));
  }
  return made;
}

std::vector<Topology::Core> Topology::Cores(const std::vector<int>& allowed) const {
  CoreList cores;
  hwloc_topology_t topology = topology_.get();
  hwloc_obj_t last_core = nullptr;
  for (hwloc_obj_t pu = nullptr;
       (pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != nullptr;) {
    const int cpu = static_cast<int>(pu->os_index);
    if (!std::binary_search(allowed.begin(), allowed.end(), cpu)) continue;
    // Where hwloc finds no cores, every CPU counts as a core.
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
    if (core == nullptr || core != last_core || cores.empty()) {
      hwloc_obj_t socket = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_PACKAGE, pu);
      cores.push_back({socket == nullptr ? 0 : static_cast<int>(socket->logical_index), {}});
    }
    cores.back().cpus.push_back(cpu);
    last_core = core;
  }
  return cores;
}

int Topology::MemorySockets(const std::vector<int>& allowed) const {
  hwloc_topology_t topology = topology_.get();
  std::set<int> sockets;
  for (const Core& core : Cores(allowed)) sockets.insert(core.socket);
  std::set<int> nodes;
  for (hwloc_obj_t node = nullptr;
       (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != nullptr;) {
    for (const int cpu : allowed) {
      if (hwloc_bitmap_isset(node->cpuset, static_cast<unsigned>(cpu))) {
        nodes.insert(static_cast<int>(node->logical_index));
      }
    }
  }
  // A virtual machine may show every CPU as a socket, and all memory as one node.
  return std::max(1, static_cast<int>(std::min(sockets.size(), nodes.size())));
}

std::vector<Binding> BindRanks(const Topology& topology, const std::vector<RankCpus>& ranks,
                               bool bind) {
  const int size = static_cast<int>(ranks.size());
  std::vector<Binding> bindings(size);
  std::vector<CoreList> own(size);
  std::vector<bool> overlaps(size, false);
  std::set<int> all_cpus;
  int all_threads = 0;
  for (int r = 0; r < size; ++r) {
    const RankCpus& rank = ranks[r];
    all_cpus.insert(rank.allowed.begin(), rank.allowed.end());
    int sharing = 0, place = 0;
    for (int other = 0; other < size; ++other) {
      if (ranks[other].allowed == rank.allowed) {
        if (other < r) ++place;
        ++sharing;
      } else if (Overlap(ranks[other].allowed, rank.allowed)) {
        overlaps[r] = true;
      }
    }
    const CoreList cores = topology.Cores(rank.allowed);
    const auto count = static_cast<int64_t>(cores.size());
    own[r].assign(cores.begin() + count * place / sharing,
                  cores.begin() + count * (place + 1) / sharing);
    int& threads = bindings[r].threads;
    threads = rank.threads > 0 ? rank.threads : std::max(1, static_cast<int>(count / sharing));
    if (rank.threads == 0 && rank.quota > 0) {
      threads = std::min(threads, std::max(1, rank.quota / size));
    }
    all_threads += threads;
  }
  bool all_bound = true;
  for (int r = 0; r < size; ++r) {
    Binding& binding = bindings[r];
    // Ranks with the same CPUs are all bound or all unbound.
    bool fit = true;
    for (int other = 0; other < size; ++other) {
      fit &= ranks[other].allowed != ranks[r].allowed ||
             bindings[other].threads <= CpuCount(own[other]);
    }
    const char* why = !bind         ? "--bind none"
                      : overlaps[r] ? "the CPUs given to ranks overlap"
                      : !fit        ? "fewer CPUs than threads"
                                    : nullptr;
    if (why == nullptr) {
      binding.cpus = SpreadThreads(own[r], binding.threads);
      binding.description =
          absl::StrCat(Threads(binding.threads), " on CPUs ", CpuList(binding.cpus), ", ",
                       Sockets(own[r], binding.cpus));
    } else {
      all_bound = false;
      binding.description = absl::StrCat(Threads(binding.threads), ", not bound (", why, ")");
    }
  }
  // A spinning thread would take time from a rank that has the same CPU.
  bool own_cores = all_bound || all_threads <= static_cast<int>(all_cpus.size());
  for (const RankCpus& rank : ranks) own_cores &= rank.quota == 0 || all_threads <= rank.quota;
  for (Binding& binding : bindings) binding.own_cores = own_cores;
  return bindings;
}

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<int> CpusOfShare(const Topology& topology, const std::vector<int>& cpus,
                             const HostShare& share) {
  const CoreList cores = topology.Cores(cpus);
  const size_t count = static_cast<size_t>(share.count);
  if (count == 1 || cores.size() < count) return cpus;
  std::vector<int> mine;
  for (size_t i = cores.size() * share.index / count; i < cores.size() * (share.index + 1) / count;
       ++i) {
    mine.insert(mine.end(), cores[i].cpus.begin(), cores[i].cpus.end());
  }
  std::sort(mine.begin(), mine.end());
  return mine;
}

absl::Status BindThisThread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the system refuses CPU ", cpu, ": ", std::strerror(errno)));
}

std::string CpuList(std::vector<int> cpus) {
  std::sort(cpus.begin(), cpus.end());
  std::string list;
  for (size_t i = 0; i < cpus.size();) {
    size_t end = i + 1;
    while (end < cpus.size() && cpus[end] == cpus[end - 1] + 1) ++end;
    absl::StrAppend(&list, i > 0 ? "," : "", cpus[i]);
    if (end - i > 1) absl::StrAppend(&list, "-", cpus[end - 1]);
    i = end;
  }
  return list;
}

}  // namespace tandem::rank
