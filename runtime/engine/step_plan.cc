#include "runtime/engine/step_plan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::engine {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the flat form is little-endian and copied without swapping");

constexpr uint32_t kMagic = 0x50535454;  // "TTSP"
constexpr uint32_t kVersion = 3;
constexpr size_t kArrays = 8;

// 64 bytes, then the arrays of numbers in the order of StepPlan's fields, then the sampling
// requests.
struct Header {
  uint32_t magic;
  uint32_t version;
  uint32_t kind;
  int32_t max_blocks;
  uint64_t sequence_number;
  uint32_t lengths[kArrays];  // elements
  uint32_t requests;
  uint32_t zero;
};
static_assert(sizeof(Header) == 64);

template <typename Plan>
auto Arrays(Plan& plan) {
  return std::array{&plan.token_ids,      &plan.positions,    &plan.slot_mapping,
                    &plan.cu_seqlens_q,   &plan.context_lens, &plan.block_tables,
                    &plan.logits_indices, &plan.block_moves};
}

absl::Status CheckRequests(const StepPlan& plan) {
  if (!plan.sampling.empty() && plan.sampling.size() != plan.logits_indices.size()) {
    return absl::InternalError(absl::StrCat("step plan: ", plan.sampling.size(),
                                            " sampling requests for ", plan.logits_indices.size(),
                                            " rows"));
  }
  for (const kernels::SampleRequest& request : plan.sampling) {
    const auto kind = static_cast<int32_t>(request.kind);
    if (kind < 0 || kind > static_cast<int32_t>(kernels::SampleKind::kNucleus)) {
      return absl::InternalError(absl::StrCat("step plan: unknown kind of sampling ", kind));
    }
  }
  return absl::OkStatus();
}

// Ascending, from 0 to below the end.
absl::Status CheckIndices(const StepPlan& plan, int64_t end) {
  int32_t previous = -1;
  for (const int32_t index : plan.logits_indices) {
    if (index <= previous || index >= end) {
      return absl::InternalError(absl::StrCat("step plan: logits index ", index, " of ", end,
                                              " is out of range or order"));
    }
    previous = index;
  }
  return absl::OkStatus();
}

// A forward plan's arrays must fit each other, so that a rank may index by them.
// Slots and blocks are checked from below; their upper bound is the KV cache's.
absl::Status CheckForward(const StepPlan& plan) {
  const size_t tokens = plan.token_ids.size();
  const size_t sequences = plan.context_lens.size();
  if (tokens == 0 || sequences == 0) return absl::InternalError("step plan: no tokens");
  if (plan.positions.size() != tokens || plan.slot_mapping.size() != tokens ||
      plan.cu_seqlens_q.size() != sequences + 1 || plan.max_blocks <= 0 ||
      plan.block_tables.size() != sequences * static_cast<size_t>(plan.max_blocks) ||
      plan.logits_indices.size() > tokens) {
    return absl::InternalError(
        absl::StrCat("step plan: array lengths do not fit ", tokens, " tokens of ", sequences,
                     " sequences: positions ", plan.positions.size(), ", slot_mapping ",
                     plan.slot_mapping.size(), ", cu_seqlens_q ", plan.cu_seqlens_q.size(),
                     ", block_tables ", plan.block_tables.size(), " at max_blocks ",
                     plan.max_blocks, ", logits_indices ", plan.logits_indices.size()));
  }
  if (plan.cu_seqlens_q.front() != 0 || plan.cu_seqlens_q.back() != static_cast<int64_t>(tokens)) {
    return absl::InternalError("step plan: cu_seqlens_q does not span the tokens");
  }
  for (size_t s = 0; s < sequences; ++s) {
    const int64_t begin = plan.cu_seqlens_q[s];
    const int64_t count = plan.cu_seqlens_q[s + 1] - begin;
    const int64_t context = plan.context_lens[s];
    if (count <= 0 || context < count || context > int64_t{plan.max_blocks} * model::kBlockSize) {
      return absl::InternalError(absl::StrCat("step plan: sequence ", s, " has ", count,
                                              " tokens of a context of ", context));
    }
  }
  for (size_t t = 0; t < tokens; ++t) {
    if (plan.token_ids[t] < 0 || plan.positions[t] < 0 || plan.slot_mapping[t] < 0) {
      return absl::InternalError(
          absl::StrCat("step plan: token ", t, " has a negative id, position or slot"));
    }
  }
  if (plan.block_moves.size() % 2 != 0 ||
      std::any_of(plan.block_moves.begin(), plan.block_moves.end(),
                  [](int32_t block) { return block < 0; })) {
    return absl::InternalError(absl::StrCat("step plan: ", plan.block_moves.size(),
                                            " entries of block moves, expected pairs from 0 on"));
  }
  TANDEM_RETURN_IF_ERROR(CheckRequests(plan));
  return CheckIndices(plan, static_cast<int64_t>(tokens));
}

}  // namespace

model::StepInput StepPlan::Input() const {
  return {.token_ids = token_ids,
          .positions = positions,
          .slot_mapping = slot_mapping,
          .cu_seqlens_q = cu_seqlens_q,
          .context_lens = context_lens,
          .block_tables = block_tables,
          .max_blocks = max_blocks,
          .logits_indices = logits_indices,
          .sampling = sampling};
}

void StepPlan::Clear() {
  for (std::vector<int32_t>* array : Arrays(*this)) array->clear();
  sampling.clear();
  max_blocks = 0;
}

void StepPlan::Serialize(std::vector<std::byte>& out) const {
  Header header{.magic = kMagic,
                .version = kVersion,
                .kind = static_cast<uint32_t>(kind),
                .max_blocks = max_blocks,
                .sequence_number = sequence_number,
                .lengths = {},
                .requests = static_cast<uint32_t>(sampling.size()),
                .zero = 0};
  const auto arrays = Arrays(*this);
  size_t bytes = sizeof(Header);
  for (size_t i = 0; i < kArrays; ++i) {
    header.lengths[i] = static_cast<uint32_t>(arrays[i]->size());
    bytes += arrays[i]->size() * sizeof(int32_t);
  }
  bytes += sampling.size() * sizeof(kernels::SampleRequest);
  out.resize(bytes);
  std::memcpy(out.data(), &header, sizeof(Header));
  std::byte* to = out.data() + sizeof(Header);
  for (const std::vector<int32_t>* array : arrays) {
    if (array->empty()) continue;
    std::memcpy(to, array->data(), array->size() * sizeof(int32_t));
    to += array->size() * sizeof(int32_t);
  }
  if (!sampling.empty()) {
    std::memcpy(to, sampling.data(), sampling.size() * sizeof(kernels::SampleRequest));
  }
}

absl::Status StepPlan::Parse(std::span<const std::byte> message) {
  if (message.size() < sizeof(Header)) {
    return absl::InternalError(
        absl::StrCat("step plan: ", message.size(), " bytes, a header has ", sizeof(Header)));
  }
  Header header;
  std::memcpy(&header, message.data(), sizeof(Header));
  if (header.magic != kMagic || header.version != kVersion) {
    return absl::InternalError(
        absl::StrCat("step plan: magic ", absl::Hex(header.magic, absl::kZeroPad8), " version ",
                     header.version, ", expected ", absl::Hex(kMagic, absl::kZeroPad8), " version ",
                     kVersion, "; do all ranks run the same build?"));
  }
  if (header.kind < static_cast<uint32_t>(Kind::kForward) ||
      header.kind > static_cast<uint32_t>(Kind::kRows)) {
    return absl::InternalError(absl::StrCat("step plan: unknown kind ", header.kind));
  }
  // Lengths of 32 bits cannot overflow this sum; nothing is allocated before it is known to
  // equal the message's size.
  uint64_t elements = 0;
  for (const uint32_t length : header.lengths) elements += length;
  const uint64_t bytes = sizeof(Header) + elements * sizeof(int32_t) +
                         header.requests * uint64_t{sizeof(kernels::SampleRequest)};
  if (bytes != message.size() || header.zero != 0) {
    return absl::InternalError(
        absl::StrCat("step plan: lengths say ", bytes, " bytes, the message has ", message.size()));
  }
  kind = static_cast<Kind>(header.kind);
  sequence_number = header.sequence_number;
  max_blocks = header.max_blocks;
  const std::byte* from = message.data() + sizeof(Header);
  const auto arrays = Arrays(*this);
  for (size_t i = 0; i < kArrays; ++i) {
    arrays[i]->resize(header.lengths[i]);
    const size_t array_bytes = arrays[i]->size() * sizeof(int32_t);
    if (array_bytes != 0) std::memcpy(arrays[i]->data(), from, array_bytes);
    from += array_bytes;
  }
  sampling.resize(header.requests);
  if (header.requests != 0) {
    std::memcpy(sampling.data(), from, header.requests * sizeof(kernels::SampleRequest));
  }
  if (kind == Kind::kForward) return CheckForward(*this);
  if (kind == Kind::kRows) {
    if (elements != logits_indices.size() || !sampling.empty()) {
      return absl::InternalError("step plan: a call for rows carries more than their numbers");
    }
    return CheckIndices(*this, INT32_MAX);
  }
  if (elements != 0 || !sampling.empty()) {
    return absl::InternalError(absl::StrCat("step plan: kind ", header.kind, " carries arrays"));
  }
  return absl::OkStatus();
}

}  // namespace tandem::engine
