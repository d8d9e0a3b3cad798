// What every rank does next, as one flat message from rank 0. Workers hold no sequence state: a
// forward plan carries all that a step needs. Shutdown and other commands are kinds of plan, so
// there is no second control path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/sampling.h"
#include "runtime/model/step_input.h"

namespace tandem::engine {

struct StepPlan {
  // kRows: logits_indices are rows of the last forward plan, ascending; the ranks send them whole.
  enum class Kind : uint32_t { kForward = 1, kShutdown = 2, kHeartbeat = 3, kRows = 4 };

  Kind kind = Kind::kForward;
  uint64_t sequence_number = 0;    // counts plans of one world; ranks check it
  std::vector<int32_t> token_ids;  // shapes as in model::StepInput
  std::vector<int32_t> positions;
  std::vector<int32_t> slot_mapping;
  std::vector<int32_t> cu_seqlens_q;
  std::vector<int32_t> context_lens;
  std::vector<int32_t> block_tables;
  int32_t max_blocks = 0;
  std::vector<int32_t> logits_indices;
  std::vector<kernels::SampleRequest> sampling;  // [rows], or empty: all rows are sent whole
  // Pairs of KV blocks (from, to) that are copied, in order, before the step.
  std::vector<int32_t> block_moves;

  model::StepInput Input() const;

  // Empties the arrays and keeps their capacity: a step allocates nothing.
  void Clear();

  // The flat form: header (magic, version, kind, sequence number, array
  // lengths), then the arrays; little-endian, no pointers. Reuses out's capacity.
  void Serialize(std::vector<std::byte>& out) const;

  // Fills this plan from a message; reuses capacity. INTERNAL for a message of
  // another version or with lengths that do not add up.
  absl::Status Parse(std::span<const std::byte> message);
};

}  // namespace tandem::engine
