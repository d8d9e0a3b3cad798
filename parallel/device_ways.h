// The ways of a world to do all-reduces on GPUs (device_all_reduce.h), and which of them is for
// which size.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/all_reduce_trial.h"
#include "parallel/communicator.h"
#include "parallel/device_all_reduce.h"
#include "parallel/device_communicator.h"

namespace tandem::parallel {

class DeviceWays {
 public:
  using Way = std::unique_ptr<DeviceAllReduce>;

  // The fastest way for sums of `count` floats; `floats` are a rank's partial sums together. Null
  // where no way takes so many.
  DeviceAllReduce* For(int64_t count, int64_t floats) const;

  // With every way; they number their plans alike.
  ReducePlan Plan(const TreeLayout& layout);

  void Add(Way way) { ways_.push_back(std::move(way)); }
  std::vector<Way>& all() { return ways_; }
  // Removes a broken way; the next one takes its place.
  void Drop(std::vector<Way>::iterator way);
  // `way` is for sums of up to `count` floats, except those of earlier choices.
  void Choose(int64_t count, DeviceAllReduce* way) { choices_.push_back({count, way}); }

  // The first error of a way. Does not wait.
  absl::Status Poll() const;
  void Abort();

 private:
  struct Choice {
    int64_t up_to;
    DeviceAllReduce* way;
  };
  std::vector<Way> ways_;
  std::vector<Choice> choices_;  // from small to large
};

// Makes all ways that this world can use, tests and measures each, and chooses one for each size.
// Collective; arguments and errors as MakeDeviceCommunicator's.
absl::StatusOr<DeviceWays> MakeDeviceWays(Communicator& host,
                                          const DeviceCommunicatorOptions& options,
                                          std::vector<AllReduceTrial>& trials);

}  // namespace tandem::parallel
