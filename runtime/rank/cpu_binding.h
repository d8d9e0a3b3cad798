// Which CPUs the threads of a rank run on. Pure functions over a topology decide, so tests can use
// machines that they do not run on.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct hwloc_topology;

namespace tandem::rank {

// Sockets, NUMA nodes, cores and CPUs (hardware threads, by the system's numbers) of a machine.
class Topology {
 public:
  // This machine's, within the control group. UNAVAILABLE where hwloc cannot read it.
  static absl::StatusOr<Topology> Load();
  // From hwloc's one-line description: "pack:2 numa:1 core:4 pu:2".
  static absl::StatusOr<Topology> Synthetic(const std::string& description);

  struct Core {
    int socket = 0;
    std::vector<int> cpus;
  };
  // Cores that have CPUs in `allowed`, each with those CPUs, in the machine's order.
  std::vector<Core> Cores(const std::vector<int>& allowed) const;

  // Sockets that have memory of their own and some of these CPUs; at least 1. One rank on each uses
  // the memory bandwidth of all.
  int MemorySockets(const std::vector<int>& allowed) const;

 private:
  struct Delete {
    void operator()(hwloc_topology* topology) const;
  };
  explicit Topology(hwloc_topology* topology) : topology_(topology) {}
  std::unique_ptr<hwloc_topology, Delete> topology_;
};

// What a rank may use, as it was started.
struct RankCpus {
  std::vector<int> allowed;  // CPUs, ascending
  int threads = 0;           // as --threads; 0: the cores, divided equally among the ranks
  int quota = 0;             // CPU time that the control group allows, in CPUs; 0: no limit
};

struct Binding {
  int threads = 1;
  std::vector<int> cpus;    // one for each thread; empty: the threads are not bound
  bool own_cores = false;   // every thread of the host's ranks has a CPU to itself: waits may spin
  std::string description;  // for the log
};

// For the ranks of one host, by local rank. Ranks that may use the same CPUs divide their cores
// into equal runs of neighbours, so two ranks on two sockets get one socket each. Ranks that were
// given CPUs of their own keep them. Each thread gets a core, or a CPU where there are too few
// cores. Ranks are not bound where they have fewer CPUs than threads, where the CPUs of two ranks
// overlap in part, or if !bind.
std::vector<Binding> BindRanks(const Topology& topology, const std::vector<RankCpus>& ranks,
                               bool bind);

// CPUs that the calling thread may use.
std::vector<int> AllowedCpus();

// Which part of a host this world has, where several worlds run on it.
struct HostShare {
  int index = 0;
  int count = 1;
};
// The part of these CPUs that belongs to `share`, ascending: a run of neighbouring cores. All CPUs
// where there are fewer cores than worlds.
std::vector<int> CpusOfShare(const Topology& topology, const std::vector<int>& cpus,
                             const HostShare& share);

// Binds this thread, and the threads that it starts from now on. UNAVAILABLE where the system
// forbids it, as in some containers.
absl::Status BindThisThread(int cpu);

// "0-3,8".
std::string CpuList(std::vector<int> cpus);

}  // namespace tandem::rank
