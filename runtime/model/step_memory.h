// The arrays of a step in memory that the backend's operations can read. If the backend's memory is
// the host's, these are the input's own arrays. Otherwise they are copies on the device, at fixed
// addresses, so that recorded operations find them again.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "runtime/model/step_input.h"

namespace tandem::model {

// A StepInput as operations take it.
struct PlacedStep {
  int64_t tokens = 0;
  int64_t rows = 0;  // of logits
  const int32_t* positions = nullptr;
  const int32_t* slot_mapping = nullptr;
  const int32_t* token_sequence = nullptr;  // [tokens], row of the block tables
  const int32_t* block_tables = nullptr;
  int64_t max_blocks = 0;
  const int32_t* logits_indices = nullptr;
  int64_t single_tokens = 0;  // as PagedAttentionArgs has them
  int64_t single_context = 0;
};

struct StepLimits {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t rows = 0;
  int64_t blocks = 0;  // of a sequence
};

class StepMemory {
 public:
  // Of the device; 0 where the backend needs no copies.
  static size_t Bytes(const kernels::DeviceLayout& device, const StepLimits& limits);

  StepMemory() = default;
  // memory: Bytes() of the backend's, or null with 0.
  StepMemory(kernels::Backend& backend, const StepLimits& limits, void* memory);

  PlacedStep Place(const StepInput& input);

  // The same, as a step of `tokens` sequences of one token each with contexts of `context`
  // at most; tokens that the input lacks are padding: positions and slots of -1.
  // Only where the memory is a device's.
  PlacedStep PlaceSingles(const StepInput& input, int64_t tokens, int64_t context);

 private:
  // Copies what was staged; tables are [sequences, stride].
  PlacedStep Copy(int64_t tokens, int64_t rows, int64_t stride);

  kernels::Backend* backend_ = nullptr;
  StepLimits limits_;
  int32_t* memory_ = nullptr;
  std::vector<int32_t> staged_;  // what memory_ is to hold
  std::vector<int32_t> token_sequence_;
};

}  // namespace tandem::model
