// Exchanges between all ranks of a world outside of its steps: at start, at the end, and where
// ranks must agree. all_gather.h has them for values of a type.
//
// All ranks make the same calls in the same order. A Status that is not OK is final: the world
// cannot continue.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::parallel {

class ControlGroup {
 public:
  virtual ~ControlGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // The bytes of every rank, by rank. DEADLINE_EXCEEDED where a rank does not answer within the
  // world's patience (mpi_world.h).
  virtual absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) = 0;

  // Returns once all ranks have called it. Limited by the step timeout where the group has one.
  virtual absl::Status Barrier() = 0;
};

// A world of one.
class SelfGroup : public ControlGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
    return std::vector<std::string>{mine};
  }
  absl::Status Barrier() override { return absl::OkStatus(); }
};

// OK if `mine` is OK on every rank. Otherwise all ranks get the error of the lowest rank that has
// one, with "rank N: " before it unless N is 0. A start-up phase ends with it, so that all ranks
// fail together.
absl::Status AgreeOnStatus(ControlGroup& group, const absl::Status& mine);

}  // namespace tandem::parallel
