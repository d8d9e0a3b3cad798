#include "kernels/cpu/linear_product.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/host_memory.h"

namespace tandem::kernels::cpu {
namespace {

// Memory for activations in the kernels' order: as many tokens as fit are worked on at a time, so
// that the weights are read once for all of them.
constexpr size_t kActivationBytes = size_t{8} << 20;
// Up to this many activations each thread packs all of them for itself: cheaper than a parallel
// region.
constexpr int64_t kOwnActivations = 16384;
// Bytes of weights that a thread takes at a time.
constexpr int64_t kTakenBytes = 256 << 10;
// Activations that a thread packs at a time, at least.
constexpr int64_t kTakenActivations = 4096;

// One token block of the spec fits, too.
size_t ActivationBytes(const LinearSpec& spec) {
  return std::max(kActivationBytes,
                  Activations::Bytes(SpanLayout(spec), spec.columns(), kTokenBlock));
}

}  // namespace

absl::Status LinearProduct::Reserve(const LinearSpec& spec) {
  const size_t bytes = ActivationBytes(spec);
  if (activations_.bytes() < bytes) {
    // Small pages: a small model touches little of it.
    TANDEM_ASSIGN_OR_RETURN(activations_, AllocateHost(bytes, Pages::kSmall));
  }
  return absl::OkStatus();
}

void LinearProduct::Multiply(const CpuLinearWeight& weight, const float* x, int64_t tokens,
                             const float* bias, float* y) {
  TANDEM_CHECK(bias == nullptr || weight.schedule.subtrees == 1);
  if (tokens == 0 || weight.schedule.subtrees == 0 || weight.spec.rows == 0) return;
  const int64_t chunk = TokensAtATime(weight, tokens);
  for (int64_t t = 0; t < tokens; t += chunk) {
    MultiplyChunk(weight, x + t * weight.spec.columns(), std::min(chunk, tokens - t),
                  {.layout = &weight.layout,
                   .schedule = &weight.schedule,
                   .segments = weight.segments,
                   .rows = weight.spec.rows,
                   .first_token = t,
                   .tokens = tokens,
                   .bias = bias,
                   .y = y});
  }
}

// All tokens, or as many token blocks as the memory for activations holds.
int64_t LinearProduct::TokensAtATime(const CpuLinearWeight& weight, int64_t tokens) const {
  const size_t block = Activations::Bytes(weight.layout, weight.spec.columns(), kTokenBlock) + 64;
  const int64_t most = std::max<int64_t>(1, activations_.bytes() / block) * kTokenBlock;
  const int64_t chunks = (tokens + most - 1) / most;
  return RoundUp((tokens + chunks - 1) / chunks, kTokenBlock);
}

void LinearProduct::MultiplyChunk(const CpuLinearWeight& weight, const float* x, int64_t tokens,
                                  const LinearArgs& args) {
  const SpanLayout& layout = weight.layout;
  const int64_t columns = weight.spec.columns();
  const size_t bytes = RoundUp(Activations::Bytes(layout, columns, tokens), 64);
  const auto activations_of = [&](int thread) {
    return Activations::In(activations_.as<std::byte>() + thread * bytes, layout, columns, tokens);
  };
  const bool own =
      tokens * columns <= kOwnActivations && bytes * pool_.size() <= activations_.bytes();
  if (!own) {
    const Activations all = activations_of(0);
    const int64_t unit = layout.span * std::min(tokens, kTokenBlock);
    const int64_t grain = std::max<int64_t>(1, kTakenActivations / unit);
    pool_.ParallelFor(all.units(), grain, [&](int, int64_t begin, int64_t end) {
      kernels_.pack_activations(layout, x, columns, begin, end, all);
    });
  }
  // A thread that gets less of the memory's bandwidth leaves panels to the others.
  const size_t scratch = LinearScratchFloats(weight.schedule);
  const int64_t panel_bytes = kPanelRows * layout.row_bytes(columns);
  const int64_t per_thread = (weight.panels() + pool_.size() - 1) / pool_.size();
  const int64_t grain = std::clamp<int64_t>(kTakenBytes / panel_bytes, 1, per_thread);
  for (ThreadState& thread : threads_) thread.packed = !own;
  pool_.ParallelFor(weight.panels(), grain, [&](int thread, int64_t begin, int64_t end) {
    LinearArgs mine = args;
    mine.x = activations_of(own ? thread : 0);
    mine.prefetches = prefetches_;
    if (!threads_[thread].packed) {
      kernels_.pack_activations(layout, x, columns, 0, mine.x.units(), mine.x);
      threads_[thread].packed = true;
    }
    kernels_.panels[static_cast<int>(layout.kind)](mine, begin, end, Scratch(thread, scratch));
  });
}

float* LinearProduct::Scratch(int thread, size_t floats) {
  std::vector<float>& scratch = threads_[thread].scratch;
  if (scratch.size() < floats) scratch.resize(floats);
  return scratch.data();
}

}  // namespace tandem::kernels::cpu
