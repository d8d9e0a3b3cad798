// For builds with CUDA but without NCCL.
#include "parallel/device_all_reduce.h"

namespace tandem::parallel {

absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakeNcclAllReduce(cudaStream_t, ControlGroup&,
                                                                   bool,
                                                                   std::chrono::milliseconds) {
  return absl::UnimplementedError("this program was built without NCCL (2.27 or later)");
}

}  // namespace tandem::parallel
