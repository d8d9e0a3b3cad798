// Memory of other cards: of ranks that are threads it is reached as it is, or, as the fault
// peer_writes_lost, not at all; of other processes it cannot be opened.
#include <cuda_runtime_api.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "tests/emulation/faults.h"

namespace tandem::emulation {

Faults& GetFaults() {
  static Faults faults;
  return faults;
}

}  // namespace tandem::emulation

extern "C" {

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* memory) {
  std::memset(handle, 0, sizeof(*handle));
  std::memcpy(handle, &memory, sizeof(memory));
  const pid_t process = getpid();
  std::memcpy(handle->reserved + sizeof(memory), &process, sizeof(process));
  return cudaSuccess;
}

// Never freed where it is lost: it has no other owner, and tests are short.
cudaError_t cudaIpcOpenMemHandle(void** memory, cudaIpcMemHandle_t handle, unsigned flags) {
  if (flags != cudaIpcMemLazyEnablePeerAccess) return cudaErrorInvalidValue;
  pid_t process = 0;
  std::memcpy(&process, handle.reserved + sizeof(*memory), sizeof(process));
  if (process != getpid()) return cudaErrorPeerAccessUnsupported;
  if (tandem::emulation::GetFaults().ipc_refused) return cudaErrorInvalidDevice;
  std::memcpy(memory, &handle, sizeof(*memory));
  if (tandem::emulation::GetFaults().peer_writes_lost) {
    *memory = std::aligned_alloc(256, (malloc_usable_size(*memory) + 255) / 256 * 256);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaErrorPeerAccessAlreadyEnabled; }

cudaError_t cudaIpcCloseMemHandle(void*) { return cudaSuccess; }

}  // extern "C"
