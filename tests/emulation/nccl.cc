// NCCL's functions for ranks as threads of a process, as far as parallel/ uses them; ranks of
// mpirun, which are processes, it refuses, as NCCL does where they share a GPU. What is
// queued on a stream waits for the other ranks without holding its thread, so that it can be
// given up. As NCCL's, a communicator does not end before the graphs that have its calls are gone:
// ncclCommAbort waits for that. Values are added in the order of ranks.
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <sched.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/emulation/faults.h"
#include "tests/emulation/stream.h"

namespace tandem::emulation {
namespace {

// One collective: what ranks have brought, and how many have taken the result.
struct Round {
  std::vector<std::vector<float>> brought;
  bool captured = false;  // into a graph: by all ranks or none
  int arrived = 0;
  int taken = 0;
};

struct World {
  std::mutex mutex;
  int size = 0;
  int joined = 0;
  std::map<uint64_t, Round> rounds;
};

struct Worlds {
  std::mutex mutex;
  uint64_t next_id = 1;
  std::map<uint64_t, std::shared_ptr<World>> by_id;
};

// Never destroyed: a thread that waits to give a communicator up may outlive main.
Worlds& GetWorlds() {
  static Worlds& worlds = *new Worlds;
  return worlds;
}

}  // namespace
}  // namespace tandem::emulation

struct ncclComm {
  std::shared_ptr<tandem::emulation::World> world;
  int rank = 0;
  uint64_t rounds = 0;  // that this rank has ended
  bool arrived = false;
  std::atomic<bool> aborted = false;
  std::atomic<bool> finalized = false;
  std::atomic<int> recorded = 0;  // calls that graphs have
};

namespace tandem::emulation {
namespace {

// Work that is queued keeps a communicator that has been given up.
struct Handles {
  std::mutex mutex;
  std::map<ncclComm_t, std::shared_ptr<ncclComm>> live;
};

Handles& GetHandles() {
  static Handles& handles = *new Handles;
  return handles;
}

std::shared_ptr<ncclComm> Find(ncclComm_t comm) {
  Handles& handles = GetHandles();
  const std::lock_guard lock(handles.mutex);
  const auto found = handles.live.find(comm);
  if (found == handles.live.end()) std::abort();
  return found->second;
}

void Forget(ncclComm_t comm) {
  Handles& handles = GetHandles();
  const std::lock_guard lock(handles.mutex);
  handles.live.erase(comm);
}

// One of comm->recorded, as long as a copy of it is there.
std::shared_ptr<void> Recorded(const std::shared_ptr<ncclComm>& comm) {
  ++comm->recorded;
  return {nullptr, [comm](void*) { --comm->recorded; }};
}

using Finish = std::function<void(const std::vector<std::vector<float>>& brought)>;

// Brings `count` floats and calls `finish` once everybody has.
void EnqueueRound(std::shared_ptr<ncclComm> comm, const float* send, size_t count, Finish finish,
                  cudaStream_t stream) {
  const bool captured = IsCapturing(stream);
  const std::shared_ptr<void> recorded = captured ? Recorded(comm) : nullptr;
  EnqueueWaiting(stream, [comm = std::move(comm), send, count, finish = std::move(finish), captured,
                          recorded] {
    if (comm->aborted) return true;
    if (GetFaults().nccl_never_ends) return false;
    World& world = *comm->world;
    const std::lock_guard lock(world.mutex);
    Round& round = world.rounds[comm->rounds];
    if (!comm->arrived) {
      round.brought.resize(world.size);
      round.brought[comm->rank].assign(send, send + count);
      if (round.arrived > 0 && round.captured != captured) {
        std::fprintf(stderr, "emulation: a collective of NCCL is captured by some ranks alone\n");
        std::abort();
      }
      round.captured = captured;
      ++round.arrived;
      comm->arrived = true;
    }
    if (round.arrived < world.size) return false;
    finish(round.brought);
    if (++round.taken == world.size) world.rounds.erase(comm->rounds);
    ++comm->rounds;
    comm->arrived = false;
    return true;
  });
}

}  // namespace
}  // namespace tandem::emulation

using namespace tandem::emulation;  // its functions have C's names

extern "C" {

const char* ncclGetErrorString(ncclResult_t) { return "an error of the emulated NCCL"; }
const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclMemAlloc(void** data, size_t bytes) {
  return cudaMalloc(data, bytes) == cudaSuccess ? ncclSuccess : ncclSystemError;
}
ncclResult_t ncclMemFree(void* data) {
  return cudaFree(data) == cudaSuccess ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return ncclInvalidUsage;
  Worlds& worlds = GetWorlds();
  const std::lock_guard lock(worlds.mutex);
  std::memset(id, 0, sizeof(*id));
  std::memcpy(id, &worlds.next_id, sizeof(worlds.next_id));
  worlds.by_id[worlds.next_id++] = std::make_shared<World>();
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidUsage;  // nobody may wait without a deadline
  uint64_t number = 0;
  std::memcpy(&number, &id, sizeof(number));
  const auto made = std::make_shared<ncclComm>();
  {
    Worlds& worlds = GetWorlds();
    const std::lock_guard lock(worlds.mutex);
    made->world = worlds.by_id.at(number);
  }
  made->rank = rank;
  {
    const std::lock_guard lock(made->world->mutex);
    made->world->size = ranks;
    ++made->world->joined;
  }
  Handles& handles = GetHandles();
  const std::lock_guard lock(handles.mutex);
  handles.live[made.get()] = made;
  *comm = made.get();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const std::lock_guard lock(comm->world->mutex);
  const bool started = comm->world->joined == comm->world->size && !GetFaults().nccl_never_starts;
  const bool ending = comm->finalized && comm->recorded > 0;
  *state = started && !ending ? ncclSuccess : ncclInProgress;
  return ncclSuccess;
}

ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void*, size_t, ncclWindow_t* window,
                                    int flags) {
  if (flags != NCCL_WIN_COLL_SYMMETRIC) return ncclInvalidUsage;
  *window = reinterpret_cast<ncclWindow_t>(comm);
  return ncclSuccess;
}
ncclResult_t ncclCommWindowDeregister(ncclComm_t comm, ncclWindow_t window) {
  return window == reinterpret_cast<ncclWindow_t>(comm) ? ncclSuccess : ncclInvalidUsage;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  comm->finalized = true;
  return ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  Forget(comm);
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const std::shared_ptr<ncclComm> kept = Find(comm);
  comm->aborted = true;
  while (comm->recorded > 0) sched_yield();
  Forget(comm);
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclFloat || operation != ncclSum) return ncclInvalidUsage;
  auto* const out = static_cast<float*>(receive);
  EnqueueRound(
      Find(comm), static_cast<const float*>(send), count,
      [out, count](const std::vector<std::vector<float>>& brought) {
        for (size_t i = 0; i < count; ++i) {
          float sum = 0;
          for (const std::vector<float>& values : brought) sum += values[i];
          out[i] = sum;
        }
        if (GetFaults().nccl_sums_wrong) out[count / 2] += 1;
      },
      stream);
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclFloat) return ncclInvalidUsage;
  auto* const out = static_cast<float*>(receive);
  EnqueueRound(
      Find(comm), static_cast<const float*>(send), count,
      [out, count](const std::vector<std::vector<float>>& brought) {
        for (size_t r = 0; r < brought.size(); ++r) {
          std::memcpy(out + r * count, brought[r].data(), count * sizeof(float));
        }
        if (GetFaults().nccl_sums_wrong) out[count / 2] += 1;
      },
      stream);
  return ncclSuccess;
}

}  // extern "C"
