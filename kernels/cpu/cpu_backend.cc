#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "hwy/highway.h"
#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/host_memory.h"
#include "kernels/ref/ref_backend.h"

namespace tandem::kernels {
namespace {

class CpuLinearWeight : public LinearWeight {
 public:
  CpuLinearWeight(const LinearSpec& spec, Buffer panels)
      : LinearWeight(spec), panels_(std::move(panels)) {}
  size_t bytes() const override { return panels_.bytes(); }
  const void* panels() const { return panels_.data(); }

 private:
  Buffer panels_;
};

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : pool_(options.threads, options.cpus), scratch_(options.threads) {}

  absl::StatusOr<Buffer> Allocate(size_t bytes) override { return AllocateHost(bytes); }
  void CopyFromHost(void* dst, const void* src, size_t bytes) override {
    if (bytes > 0) std::memcpy(dst, src, bytes);
  }
  void CopyToHost(void* dst, const void* src, size_t bytes) override {
    if (bytes > 0) std::memcpy(dst, src, bytes);
  }
  void Synchronize() override {}

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackLinear(const LinearSpec& spec,
                                                           RowReader read_rows) override {
    const cpu::PanelLayout layout(spec.rows);
    const int64_t columns = spec.columns();
    const size_t size = DTypeSize(spec.dtype);
    TANDEM_ASSIGN_OR_RETURN(Buffer panels, AllocateHost(PackedBytes(spec)));
    if (columns > 0) {
      std::vector<std::byte> rows(cpu::kPanelRows * columns * size);
      for (int64_t p = 0; p < layout.panels(); ++p) {
        const int64_t first = layout.first_row(p);
        const int64_t last = std::min(first + layout.panel_rows(p), spec.rows);
        TANDEM_RETURN_IF_ERROR(read_rows(first, last, rows.data()));
        cpu::PackPanel(rows.data(), last - first, columns, size, layout.panel_rows(p),
                       panels.as<std::byte>() + first * columns * size);
      }
    }
    return std::make_unique<CpuLinearWeight>(spec, std::move(panels));
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackQuantized(const LinearSpec&,
                                                              QuantizedRowReader) override {
    return absl::UnimplementedError("quantized weights on the CPU backend");
  }

  size_t PackedBytes(const LinearSpec& spec) const override {
    const int64_t rows = cpu::PanelLayout(spec.rows).padded_rows();
    if (!spec.quant.has_value()) return rows * spec.columns() * DTypeSize(spec.dtype);
    const int64_t groups = spec.group_end() - spec.group_begin();
    const int64_t code_bytes = (spec.columns() * spec.quant->bits + 7) / 8;
    return rows * (code_bytes + groups * (DTypeSize(spec.quant->scale_dtype) +
                                          (spec.quant->zero_points ? 1 : 0)));
  }

  void Linear(const LinearWeight& weight, const float* x, int64_t tokens, const float* bias,
              float* y) override {
    const auto& w = static_cast<const CpuLinearWeight&>(weight);
    TANDEM_CHECK(bias == nullptr || w.schedule.subtrees == 1);
    if (tokens == 0 || w.schedule.subtrees == 0 || w.spec.rows == 0) return;
    const cpu::LinearArgs args = {.panels = w.panels(),
                                  .dtype = w.spec.dtype,
                                  .rows = w.spec.rows,
                                  .columns = w.spec.columns(),
                                  .schedule = &w.schedule,
                                  .x = x,
                                  .tokens = tokens,
                                  .bias = bias,
                                  .y = y};
    const size_t scratch = cpu::LinearScratchBytes(w.schedule) / sizeof(float);
    const int64_t panels = cpu::PanelLayout(w.spec.rows).panels();
    pool_.Run([&](int thread) {
      const Share share = ShareOf(panels, thread, pool_.size());
      if (share.begin < share.end) {
        cpu::LinearPanels(args, share.begin, share.end, Scratch(thread, scratch));
      }
    });
  }

  void EmbedTokens(const void* host_table, DType dtype, int64_t hidden, const int32_t* ids,
                   int64_t tokens, float* out) override {
    const auto* table = static_cast<const std::byte*>(host_table);
    for (int64_t t = 0; t < tokens; ++t) {
      cpu::WidenRow(table + ids[t] * hidden * DTypeSize(dtype), dtype, hidden, out + t * hidden);
    }
  }

  void AddRmsNorm(const float* delta, const float* delta_bias, float* residual, const float* weight,
                  float epsilon, int64_t tokens, int64_t hidden, float* out) override {
    ForTokens(tokens, [&](int64_t t) {
      cpu::AddRmsNormRow(delta == nullptr ? nullptr : delta + t * hidden, delta_bias,
                         residual + t * hidden, weight, epsilon, hidden, out + t * hidden);
    });
  }

  void RopeAngles(const int32_t* positions, int64_t tokens, const float* inverse_frequencies,
                  int64_t half, float attention_factor, float* cos, float* sin) override {
    ForTokens(tokens, [&](int64_t t) {
      for (int64_t i = 0; i < half; ++i) {
        float s, c;
        SinCosF32(static_cast<float>(positions[t]) * inverse_frequencies[i], s, c);
        cos[t * half + i] = c * attention_factor;
        sin[t * half + i] = s * attention_factor;
      }
    });
  }

  void RopeAndCache(const RopeAndCacheArgs& args) override {
    ForTokens(args.tokens, [&](int64_t t) { cpu::RopeAndCacheToken(args, t); });
  }

  void PagedAttention(const PagedAttentionArgs& args) override {
    // Runs of query heads with one KV head are the units of work.
    groups_.clear();
    for (int64_t h = 0; h < args.q_heads; ++h) {
      if (h == 0 || args.head_to_kv[h] != args.head_to_kv[h - 1]) groups_.push_back(h);
    }
    const int64_t groups = static_cast<int64_t>(groups_.size());
    groups_.push_back(args.q_heads);
    const size_t scratch = cpu::AttentionScratchFloats(args);
    // Later tokens of a prompt have longer contexts: threads take turns.
    const int64_t items = args.tokens * groups;
    pool_.Run([&](int thread) {
      float* mine = items > thread ? Scratch(thread, scratch) : nullptr;
      for (int64_t i = thread; i < items; i += pool_.size()) {
        const int64_t group = i % groups;
        cpu::AttendToken(args, i / groups, groups_[group], groups_[group + 1], mine);
      }
    });
  }

  void SiluMul(const float* gate_up, int64_t tokens, int64_t columns, float* out) override {
    ForTokens(tokens, [&](int64_t t) {
      const float* gate = gate_up + t * 2 * columns;
      cpu::SiluMulRow(gate, gate + columns, columns, out + t * columns);
    });
  }

  void GatherRows(const float* x, const int32_t* indices, int64_t rows, int64_t columns,
                  float* out) override {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(out + r * columns, x + indices[r] * columns, columns * sizeof(float));
    }
  }

 private:
  // A region pays from a few tokens on.
  template <typename Body>
  void ForTokens(int64_t tokens, const Body& body) {
    if (tokens < 4) {
      for (int64_t t = 0; t < tokens; ++t) body(t);
      return;
    }
    pool_.Run([&](int thread) {
      const Share share = ShareOf(tokens, thread, pool_.size());
      for (int64_t t = share.begin; t < share.end; ++t) body(t);
    });
  }

  // At least `floats` floats of the thread's own; grows to the largest need once.
  float* Scratch(int thread, size_t floats) {
    std::vector<float>& scratch = scratch_[thread];
    if (scratch.size() < floats) scratch.resize(floats);
    return scratch.data();
  }

  ThreadPool pool_;
  std::vector<std::vector<float>> scratch_;
  std::vector<int64_t> groups_;
};

int64_t TargetMask(const std::string& isa) {
  if (isa == "avx2") return HWY_AVX2;
  if (isa == "avx3") return HWY_AVX3;
  return 0;
}

}  // namespace

absl::Status PinIsa(const std::string& isa) {
  if (isa == "auto" || isa == "ref") return absl::OkStatus();
  const int64_t mask = TargetMask(isa);
  if (mask == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("isa: found '", isa, "', expected auto, avx2, avx3 or ref"));
  }
  if ((hwy::SupportedTargets() & mask) == 0) {
    return absl::InvalidArgumentError(absl::StrCat("isa: this CPU lacks '", isa, "'; choose auto"));
  }
  // Targets better than the named one have lower bits. DisableTargets would not
  // do: in Highway 1.0.3 each SupportedTargets() chooses among all targets again.
  const int64_t allowed = hwy::SupportedTargets() & ~(mask - 1);
  hwy::SetSupportedTargetsForTest(allowed);
  hwy::GetChosenTarget().Update(allowed);
  return absl::OkStatus();
}

std::string IsaInUse(const std::string& isa) {
  const bool fused = (hwy::SupportedTargets() & (HWY_AVX2 | HWY_AVX3)) != 0;
  return isa == "ref" || !fused ? "ref" : cpu::IsaName();
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const std::string& isa,
                                                        const CpuOptions& options) {
  TANDEM_RETURN_IF_ERROR(PinIsa(isa));
  if (IsaInUse(isa) == "ref") return MakeRefBackend();
  return std::make_unique<CpuBackend>(options);
}

}  // namespace tandem::kernels
