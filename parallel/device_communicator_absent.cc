// For builds without CUDA.
#include "parallel/device_communicator.h"

namespace tandem::parallel {

absl::StatusOr<std::unique_ptr<Communicator>> MakeDeviceCommunicator(
    Communicator&, const DeviceCommunicatorOptions&, std::vector<AllReduceTrial>*) {
  return absl::UnavailableError(
      "collectives between GPUs: this program was built without CUDA; build it with "
      "-DTANDEM_CUDA=ON");
}

}  // namespace tandem::parallel
