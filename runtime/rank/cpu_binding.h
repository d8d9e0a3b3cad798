// Which CPUs a rank's threads run on. Decided by pure functions over a topology, so that tests can
// try machines that are not there.
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
  // This machine's, as far as the control group allows it. UNAVAILABLE where hwloc cannot tell.
  static absl::StatusOr<Topology> Load();
  // As hwloc describes one in a line: "pack:2 numa:1 core:4 pu:2".
  static absl::StatusOr<Topology> Synthetic(const std::string& description);

  struct Core {
    int socket = 0;
    std::vector<int> cpus;
  };
  // Cores with the CPUs among `allowed`, neighbours in the machine next to each other.
  std::vector<Core> Cores(const std::vector<int>& allowed) const;

  // Sockets with memory of their own and some of these CPUs: as many ranks use all memory best. At
  // least 1.
  int MemorySockets(const std::vector<int>& allowed) const;

 private:
  struct Delete {
    void operator()(hwloc_topology* topology) const;
  };
  explicit Topology(hwloc_topology* topology) : topology_(topology) {}
  std::unique_ptr<hwloc_topology, Delete> topology_;
};

// A rank as it was started.
struct RankCpus {
  std::vector<int> allowed;  // CPUs that it may use, ascending
  int threads = 0;           // as asked for; 0: its share of the cores
  int quota = 0;             // CPUs' worth of time that its control group may use; 0: no limit
};

struct Binding {
  int threads = 1;
  std::vector<int> cpus;    // one a thread; empty: the threads are not bound
  bool own_cores = false;   // no thread of the host's ranks has to share its CPU: waits may spin
  std::string description;  // for the log
};

// For the ranks of one host, by local rank. Ranks that may use the same CPUs share out their cores
// in equal runs, so that two ranks on two sockets get one each; ranks that were given CPUs of their
// own keep them. A thread gets a core; where there are too few, a CPU. Ranks are not bound where
// there are fewer CPUs than threads, where what they may use overlaps in part, or if !bind.
std::vector<Binding> BindRanks(const Topology& topology, const std::vector<RankCpus>& ranks,
                               bool bind);

// CPUs that the calling thread may use.
std::vector<int> AllowedCpus();

// Where several worlds share a host: which one of how many this is.
struct HostShare {
  int index = 0;
  int count = 1;
};
// Of these CPUs, ascending, those of a run of neighbouring cores; all where there are fewer cores
// than worlds.
std::vector<int> CpusOfShare(const Topology& topology, const std::vector<int>& cpus,
                             const HostShare& share);

// Threads that this one starts from now on inherit it. UNAVAILABLE where the system forbids it, as
// a container may.
absl::Status BindThisThread(int cpu);

// "0-3,8".
std::string CpuList(std::vector<int> cpus);

}  // namespace tandem::rank
