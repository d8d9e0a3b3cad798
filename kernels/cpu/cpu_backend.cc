#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu_weights.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/linear_product.h"
#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/host_backend.h"
#include "kernels/ref/ref_backend.h"

namespace tandem::kernels {
namespace {

// Columns of an activation that one thread takes at a time.
constexpr int64_t kActivationColumns = 2048;

class CpuBackend : public HostBackend {
 public:
  CpuBackend(const CpuOptions& options, const cpu::InstructionSet& set)
      : pool_(options.threads, options.cpus, options.spin),
        rows_(cpu::RowKernelsOf(set.target)),
        packer_(pool_),
        linear_(pool_, cpu::LinearKernelsOf(set)),
        attention_(options.threads, cpu::AttentionKernelsOf(set)) {}

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackLinear(const LinearSpec& spec,
                                                           RowReader read_rows) override {
    TANDEM_RETURN_IF_ERROR(linear_.Reserve(spec));
    return packer_.PackLinear(spec, read_rows);
  }
  absl::StatusOr<std::unique_ptr<LinearWeight>> PackQuantized(
      const LinearSpec& spec, QuantizedRowReader read_rows) override {
    TANDEM_RETURN_IF_ERROR(linear_.Reserve(spec));
    return packer_.PackQuantized(spec, read_rows);
  }
  absl::StatusOr<std::unique_ptr<LinearWeight>> CopyPackedRows(
      const LinearSpec& spec, std::span<const PackedRows> rows) override {
    TANDEM_RETURN_IF_ERROR(linear_.Reserve(spec));
    return packer_.CopyPackedRows(spec, rows);
  }
  absl::StatusOr<std::unique_ptr<LinearWeight>> MapPackedRows(
      const LinearSpec& spec, std::span<const PackedRows> rows) override {
    TANDEM_RETURN_IF_ERROR(linear_.Reserve(spec));
    return packer_.MapPackedRows(spec, rows);
  }
  std::string_view packed_layout() const override { return "panels of 64 and 16 rows, 1"; }
  PackedRowsPlan PlanPackedRows(const LinearSpec& spec,
                                std::span<const PackedRows> rows) const override {
    return cpu::PlanPackedRows(spec, rows);
  }
  size_t PackedBytes(const LinearSpec& spec) const override { return cpu::PackedBytes(spec); }

  void Linear(const LinearWeight& weight, const float* x, int64_t tokens, const float* bias,
              float* y) override {
    linear_.Multiply(static_cast<const cpu::CpuLinearWeight&>(weight), x, tokens, bias, y);
  }

  void EmbedTokens(const void* host_table, DType dtype, int64_t hidden, const int32_t* ids,
                   int64_t tokens, float* out) override {
    const auto* table = static_cast<const std::byte*>(host_table);
    ForTokens(tokens, [&](int64_t t) {
      rows_.widen(table + ids[t] * hidden * DTypeSize(dtype), dtype, hidden, out + t * hidden);
    });
  }

  void AddRmsNorm(const float* delta, const float* delta_bias, float* residual, const float* weight,
                  float epsilon, int64_t tokens, int64_t hidden, float* out) override {
    ForTokens(tokens, [&](int64_t t) {
      rows_.add_rms_norm(delta == nullptr ? nullptr : delta + t * hidden, delta_bias,
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
    ForTokens(args.tokens, [&](int64_t t) { rows_.rope_and_cache(args, t); });
  }

  void PagedAttention(const PagedAttentionArgs& args) override { attention_.Run(pool_, args); }

  void SiluMul(const float* gate_up, int64_t tokens, int64_t columns, float* out) override {
    // Costly enough to divide even one token's columns among threads.
    const int64_t parts = (columns + kActivationColumns - 1) / kActivationColumns;
    pool_.ParallelFor(tokens * parts, 1, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = i / parts;
        const int64_t first = i % parts * kActivationColumns;
        const float* gate = gate_up + t * 2 * columns + first;
        rows_.silu_mul(gate, gate + columns, std::min(kActivationColumns, columns - first),
                       out + t * columns + first);
      }
    });
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
      const ItemRange range = EvenRange(tokens, thread, pool_.size());
      for (int64_t t = range.begin; t < range.end; ++t) body(t);
    });
  }

  ThreadPool pool_;
  const cpu::RowKernels rows_;
  cpu::PanelPacker packer_;
  cpu::LinearProduct linear_;
  cpu::Attention attention_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const std::string& isa,
                                                        const CpuOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const cpu::InstructionSet set, cpu::FindInstructionSet(isa));
  if (set.target == 0) return MakeRefBackend();
  return std::make_unique<CpuBackend>(options, set);
}

std::string IsaInUse(const std::string& isa) {
  const auto set = cpu::FindInstructionSet(isa);
  return set.ok() ? cpu::NameOf(*set) : isa;
}

}  // namespace tandem::kernels
