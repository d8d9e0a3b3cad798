// Collectives of ranks whose activations are on devices, by way of the host: copy, the
// inner communicator, copy back. Works between any devices, also where ranks share one or
// cards cannot reach each other; a host synchronization for each collective.
#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "parallel/communicator.h"

namespace tandem::parallel {

// Partial sums and results are in the backend's memory; GatherColumns' result is on the host.
class StagedCommunicator : public Communicator {
 public:
  // Both outlive the object.
  StagedCommunicator(kernels::Backend& backend, Communicator& inner)
      : backend_(backend), inner_(inner) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  absl::Status AllReduceTree(const TreeLayout& layout, const float* mine, int64_t count,
                             float* out) override;
  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override;
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
    return inner_.AllGatherBytes(mine);
  }
  absl::Status Barrier() override { return inner_.Barrier(); }

 private:
  absl::Status ToHost(const float* from, int64_t count, float* to);

  kernels::Backend& backend_;
  Communicator& inner_;
  std::vector<float> mine_, sum_;
};

}  // namespace tandem::parallel
