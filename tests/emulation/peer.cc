// Memory of other GPUs: of ranks that are threads it is reached as it is, or, as the fault
// peer_writes_lost, not at all; of other processes it cannot be opened.
#include "tests/emulation/peer.h"

#include <cuda_runtime_api.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "tests/emulation/faults.h"
#include "tests/emulation/last_error.h"

namespace tandem::emulation {
namespace {

struct Opened {
  std::mutex mutex;
  std::multimap<void*, void*> owned_by;  // as it was opened: as its owner has it
  int freed = 0;
};

Opened& GetOpened() {
  static Opened opened;
  return opened;
}

}  // namespace

Faults& GetFaults() {
  static Faults faults;
  return faults;
}

void NoteFree(const void* memory) {
  Opened& opened = GetOpened();
  const std::lock_guard lock(opened.mutex);
  for (const auto& [as_opened, owned] : opened.owned_by) {
    if (owned == memory) ++opened.freed;
  }
}

int FreedWhileOpen() {
  Opened& opened = GetOpened();
  const std::lock_guard lock(opened.mutex);
  return opened.freed;
}

}  // namespace tandem::emulation

using tandem::emulation::Failed;

extern "C" {

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* memory) {
  if (tandem::emulation::GetFaults().ipc_unsupported) return Failed(cudaErrorNotSupported);
  std::memset(handle, 0, sizeof(*handle));
  std::memcpy(handle, &memory, sizeof(memory));
  const pid_t process = getpid();
  std::memcpy(handle->reserved + sizeof(memory), &process, sizeof(process));
  return cudaSuccess;
}

// Never freed where it is lost: it has no other owner, and tests are short.
cudaError_t cudaIpcOpenMemHandle(void** memory, cudaIpcMemHandle_t handle, unsigned flags) {
  if (flags != cudaIpcMemLazyEnablePeerAccess) return Failed(cudaErrorInvalidValue);
  pid_t process = 0;
  std::memcpy(&process, handle.reserved + sizeof(*memory), sizeof(process));
  if (process != getpid()) return Failed(cudaErrorPeerAccessUnsupported);
  if (tandem::emulation::GetFaults().ipc_refused) return Failed(cudaErrorInvalidDevice);
  std::memcpy(memory, &handle, sizeof(*memory));
  void* const owned = *memory;
  if (tandem::emulation::GetFaults().peer_writes_lost) {
    *memory = std::aligned_alloc(256, (malloc_usable_size(*memory) + 255) / 256 * 256);
  }
  tandem::emulation::Opened& opened = tandem::emulation::GetOpened();
  const std::lock_guard lock(opened.mutex);
  opened.owned_by.emplace(*memory, owned);
  return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void* memory) {
  tandem::emulation::Opened& opened = tandem::emulation::GetOpened();
  const std::lock_guard lock(opened.mutex);
  const auto found = opened.owned_by.find(memory);
  if (found == opened.owned_by.end()) return Failed(cudaErrorInvalidValue);
  opened.owned_by.erase(found);
  return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) {
  return Failed(cudaErrorPeerAccessAlreadyEnabled);
}

}  // extern "C"
