// A model folder of any shape with random weights, made in moments: the file of weights is in
// memory and is gone with the object. The loader reads it as it reads any other.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"

namespace tandem::bench {

struct RandomModelOptions {
  std::string shape = "8b";  // of RandomModelShapes()
  int64_t layers = 0;        // 0: the shape's
  // As stored: 16 bits wide.
  kernels::DType dtype = kernels::DType::kBF16;
  // Where the file is to be instead; empty: in memory.
  std::string folder;
};

std::vector<std::string> RandomModelShapes();

class RandomModel {
 public:
  // INVALID_ARGUMENT naming the shape; RESOURCE_EXHAUSTED where there is no room.
  static absl::StatusOr<RandomModel> Make(const RandomModelOptions& options);
  RandomModel(RandomModel&& other) noexcept;
  RandomModel& operator=(RandomModel&&) = delete;
  ~RandomModel();

  const std::string& folder() const { return folder_; }

 private:
  RandomModel() = default;
  std::string folder_;
  int fd_ = -1;
};

}  // namespace tandem::bench
