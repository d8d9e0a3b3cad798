#include "parallel/stream_wait.h"

#include <cuda_runtime_api.h>
#include <sched.h>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/cuda_memory.h"

namespace tandem::parallel {

absl::Status AwaitStream(cudaStream_t stream, std::chrono::milliseconds timeout, const char* what,
                         absl::FunctionRef<absl::Status()> poll) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point deadline = Clock::now() + timeout;
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream);
    TANDEM_RETURN_IF_ERROR(poll());
    if (state == cudaSuccess) return FromCuda(cudaGetLastError(), what);
    if (state != cudaErrorNotReady) return FromCuda(state, what);
    if (timeout.count() > 0 && Clock::now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(what, " is not done after ", timeout.count(), " ms"));
    }
    sched_yield();
  }
}

}  // namespace tandem::parallel
