// Faults of the ways between GPUs, for tests of who must find them.
#pragma once

#include <atomic>

namespace tandem::emulation {

struct Faults {
  std::atomic<bool> graphs_refused = false;     // none can be made of what is captured
  std::atomic<bool> pinning_refused = false;    // of the host's memory
  std::atomic<bool> one_gpu = false;            // of all threads, which have one each else
  std::atomic<bool> peer_writes_lost = false;   // another GPU's memory, once opened, is none
  std::atomic<bool> ipc_unsupported = false;    // no handles, as in some containers
  std::atomic<bool> ipc_refused = false;        // as between ranks of one process
  std::atomic<bool> nccl_sums_wrong = false;    // in one element
  std::atomic<bool> nccl_never_ends = false;    // its all-reduce, until it is given up
  std::atomic<bool> nccl_never_starts = false;  // its communicators
};

// Of this process.
Faults& GetFaults();

// How often memory was freed that another rank had open, which CUDA does not define.
int FreedWhileOpen();

}  // namespace tandem::emulation
