#include "runtime/model/step_memory.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace tandem::model {
namespace {

// Where each array begins; tables come last, since as much of them is copied as is used.
struct Places {
  int64_t positions = 0, slots, sequences, indices, tables;
  explicit Places(const StepLimits& limits)
      : slots(limits.tokens),
        sequences(2 * limits.tokens),
        indices(3 * limits.tokens),
        tables(3 * limits.tokens + limits.rows) {}
};

// Sequences of one token at the input's start, and the longest context of them.
void CountSingles(const StepInput& input, PlacedStep* step) {
  while (step->single_tokens < input.num_sequences()) {
    const int64_t s = step->single_tokens;
    if (input.cu_seqlens_q[s + 1] - input.cu_seqlens_q[s] != 1) break;
    step->single_context = std::max<int64_t>(step->single_context, input.context_lens[s]);
    ++step->single_tokens;
  }
}

}  // namespace

size_t StepMemory::Bytes(const kernels::DeviceLayout& device, const StepLimits& limits) {
  if (device.memory_is_host()) return 0;
  return (Places(limits).tables + limits.sequences * limits.blocks) * sizeof(int32_t);
}

StepMemory::StepMemory(kernels::Backend& backend, const StepLimits& limits, void* memory)
    : backend_(&backend), limits_(limits), memory_(static_cast<int32_t*>(memory)) {
  if (!backend.memory_is_host()) staged_.resize(Bytes(backend, limits) / sizeof(int32_t));
  token_sequence_.reserve(limits.tokens);
}

PlacedStep StepMemory::Place(const StepInput& input) {
  token_sequence_.clear();
  for (int32_t s = 0; s < input.num_sequences(); ++s) {
    token_sequence_.resize(input.cu_seqlens_q[s + 1], s);
  }
  PlacedStep step;
  if (backend_->memory_is_host()) {
    step = {.tokens = input.num_tokens(),
            .rows = input.num_rows(),
            .positions = input.positions.data(),
            .slot_mapping = input.slot_mapping.data(),
            .token_sequence = token_sequence_.data(),
            .block_tables = input.block_tables.data(),
            .max_blocks = input.max_blocks,
            .logits_indices = input.logits_indices.data()};
  } else {
    TANDEM_CHECK(input.num_sequences() <= limits_.sequences && input.max_blocks <= limits_.blocks);
    const Places places(limits_);
    int32_t* const to = staged_.data();
    std::copy(input.positions.begin(), input.positions.end(), to + places.positions);
    std::copy(input.slot_mapping.begin(), input.slot_mapping.end(), to + places.slots);
    std::copy(token_sequence_.begin(), token_sequence_.end(), to + places.sequences);
    std::copy(input.logits_indices.begin(), input.logits_indices.end(), to + places.indices);
    std::copy(input.block_tables.begin(), input.block_tables.end(), to + places.tables);
    step = Copy(input.num_tokens(), input.num_rows(), input.max_blocks);
  }
  CountSingles(input, &step);
  return step;
}

PlacedStep StepMemory::PlaceSingles(const StepInput& input, int64_t tokens, int64_t context) {
  const int64_t stride = (context + kBlockSize - 1) / kBlockSize;
  TANDEM_CHECK(tokens <= std::min({limits_.tokens, limits_.sequences, limits_.rows}) &&
               stride <= limits_.blocks);
  const Places places(limits_);
  int32_t* const to = staged_.data();
  for (int64_t t = 0; t < tokens; ++t) {
    const bool real = t < input.num_tokens();
    to[places.positions + t] = real ? input.positions[t] : -1;
    to[places.slots + t] = real ? input.slot_mapping[t] : -1;
    to[places.sequences + t] = static_cast<int32_t>(t);
    to[places.indices + t] = static_cast<int32_t>(t);
    int32_t* const table = to + places.tables + t * stride;
    const int64_t blocks = real ? std::min<int64_t>(stride, input.max_blocks) : 0;
    if (blocks > 0) std::copy_n(&input.block_tables[t * input.max_blocks], blocks, table);
    std::fill(table + blocks, table + stride, 0);
  }
  PlacedStep step = Copy(tokens, tokens, stride);
  step.single_tokens = tokens;
  step.single_context = context;
  return step;
}

PlacedStep StepMemory::Copy(int64_t tokens, int64_t rows, int64_t stride) {
  const Places places(limits_);
  const int64_t sequences = tokens == 0 ? 0 : staged_[places.sequences + tokens - 1] + int64_t{1};
  backend_->CopyFromHost(memory_, staged_.data(),
                         (places.tables + sequences * stride) * sizeof(int32_t));
  return {.tokens = tokens,
          .rows = rows,
          .positions = memory_ + places.positions,
          .slot_mapping = memory_ + places.slots,
          .token_sequence = memory_ + places.sequences,
          .block_tables = memory_ + places.tables,
          .max_blocks = stride,
          .logits_indices = memory_ + places.indices};
}

}  // namespace tandem::model
