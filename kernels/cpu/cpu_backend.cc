#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "hwy/highway.h"
#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/packed_copy.h"
#include "kernels/cpu/packed_view.h"
#include "kernels/host_memory.h"
#include "kernels/ref/ref_backend.h"

namespace tandem::kernels {
namespace {

// Room for activations in the kernels' order: so many tokens are worked on at a
// time that they fit, and weights pass once for all of them.
constexpr size_t kActivationBytes = size_t{8} << 20;
// Up to so many activations each thread prepares for itself: cheaper than a
// parallel region.
constexpr int64_t kOwnActivations = 16384;

// Bytes of weights that a thread takes at a time.
constexpr int64_t kPieceBytes = 256 << 10;

// Columns of an activation that one thread takes at a time.
constexpr int64_t kActivationColumns = 2048;

// Memory of weights, one after the other: an allocation of its own for each would leave
// its first and last part on small pages, which are read more slowly.
class WeightMemory {
 public:
  // Memory is kept until the last weight of its slab is gone.
  struct Piece {
    std::shared_ptr<Buffer> slab;
    std::span<std::byte> data;
  };

  absl::StatusOr<Piece> Allocate(size_t bytes) {
    if (bytes < kSmallBytes) {
      // A model of such weights would be felt to take a whole huge page.
      TANDEM_ASSIGN_OR_RETURN(Buffer own, AllocateHost(bytes));
      const std::span<std::byte> data = {own.as<std::byte>(), bytes};
      return Piece{std::make_shared<Buffer>(std::move(own)), data};
    }
    if (slab_ == nullptr || slab_->bytes() - used_ < bytes) {
      // What is not written takes no memory. Of mappings, the kernel aligns those whose
      // length is a multiple of a huge page.
      const auto size = cpu::RoundUp(static_cast<int64_t>(std::max(bytes, kSlabBytes)), kHugePage);
      TANDEM_ASSIGN_OR_RETURN(Buffer slab, AllocateHost(static_cast<size_t>(size)));
      slab_ = std::make_shared<Buffer>(std::move(slab));
      used_ = 0;
    }
    const Piece piece = {slab_, {slab_->as<std::byte>() + used_, bytes}};
    used_ += cpu::RoundUp(static_cast<int64_t>(bytes), 64);
    used_ = std::min(used_, slab_->bytes());
    return piece;
  }

 private:
  static constexpr size_t kSmallBytes = size_t{256} << 10;
  static constexpr size_t kSlabBytes = size_t{256} << 20;
  static constexpr int64_t kHugePage = int64_t{2} << 20;

  std::shared_ptr<Buffer> slab_;  // the last
  size_t used_ = 0;               // bytes of it
};

class CpuLinearWeight : public LinearWeight {
 public:
  CpuLinearWeight(const LinearSpec& spec, WeightMemory::Piece panels)
      : LinearWeight(spec), layout(spec), panels_(std::move(panels)) {
    segments.push_back({.data = panels_.data.data(),
                        .rows = spec.rows,
                        .row_bytes = layout.row_bytes(spec.columns())});
  }
  // Of segments in order, in memory of others (`mapped`) and in copies.
  CpuLinearWeight(const LinearSpec& spec, std::vector<cpu::Segment> segments,
                  std::vector<std::span<const std::byte>> mapped,
                  std::vector<std::unique_ptr<LinearWeight>> copies)
      : LinearWeight(spec),
        layout(spec),
        segments(std::move(segments)),
        mapped_(std::move(mapped)),
        copies_(std::move(copies)) {}
  size_t bytes() const override {
    size_t bytes = panels_.data.size();
    for (const auto& copy : copies_) bytes += cpu::RoundUp(copy->bytes(), 64);
    return bytes;
  }
  std::span<const std::byte> packed() const override { return panels_.data; }
  std::span<const std::span<const std::byte>> mapped() const override { return mapped_; }
  int64_t panels() const {
    int64_t panels = 0;
    for (const cpu::Segment& segment : segments) panels += cpu::PanelLayout(segment.rows).panels();
    return panels;
  }

  const cpu::RunLayout layout;
  std::vector<cpu::Segment> segments;

 private:
  WeightMemory::Piece panels_;
  std::vector<std::span<const std::byte>> mapped_;
  std::vector<std::unique_ptr<LinearWeight>> copies_;
};

class CpuBackend : public Backend {
 public:
  CpuBackend(const CpuOptions& options, const cpu::LinearKernels& linear,
             const cpu::AttentionKernels& attention)
      : pool_(options.threads, options.cpus, options.spin),
        scratch_(options.threads),
        linear_(linear),
        attention_(options.threads, attention) {}

  absl::StatusOr<Buffer> Allocate(size_t bytes) override { return AllocateHost(bytes); }
  void CopyFromHost(void* dst, const void* src, size_t bytes) override {
    if (bytes > 0) std::memcpy(dst, src, bytes);
  }
  void CopyToHost(void* dst, const void* src, size_t bytes) override {
    if (bytes > 0) std::memcpy(dst, src, bytes);
  }
  void Copy(void* dst, const void* src, size_t bytes) override {
    if (bytes > 0) std::memcpy(dst, src, bytes);
  }
  void Synchronize() override {}

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackLinear(const LinearSpec& spec,
                                                           RowReader read_rows) override {
    const cpu::RunLayout layout(spec);
    const int64_t columns = spec.columns();
    std::vector<std::vector<std::byte>> buffers(pool_.size());
    return FillPanels(spec, [&](int thread, const PanelRows& panel) -> absl::Status {
      std::vector<std::byte>& rows = buffers[thread];
      rows.resize(cpu::kPanelRows * columns * DTypeSize(spec.dtype));
      TANDEM_RETURN_IF_ERROR(read_rows(panel.begin, panel.end, rows.data()));
      cpu::PackPanel(layout, rows.data(), panel.end - panel.begin, columns, panel.padded,
                     panel.data);
      return absl::OkStatus();
    });
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackQuantized(
      const LinearSpec& spec, QuantizedRowReader read_rows) override {
    const cpu::RunLayout layout(spec);
    const int64_t columns = spec.columns();
    const int64_t groups = spec.group_end() - spec.group_begin();
    struct Rows {
      std::vector<int8_t> codes;
      std::vector<float> scales;
      std::vector<uint8_t> zeros;
    };
    std::vector<Rows> buffers(pool_.size());
    return FillPanels(spec, [&](int thread, const PanelRows& panel) -> absl::Status {
      Rows& buffer = buffers[thread];
      buffer.codes.resize(cpu::kPanelRows * columns);
      buffer.scales.resize(cpu::kPanelRows * groups);
      if (spec.quant->zero_points) buffer.zeros.resize(cpu::kPanelRows * groups);
      const QuantizedRows rows = {buffer.codes.data(), buffer.scales.data(), buffer.zeros.data()};
      TANDEM_RETURN_IF_ERROR(read_rows(panel.begin, panel.end, rows));
      cpu::PackQuantizedPanel(layout, rows, panel.end - panel.begin, columns, spec.column_begin(),
                              spec.quant->group_size, groups, panel.padded, panel.data);
      return absl::OkStatus();
    });
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackFrom(
      const LinearSpec& spec, std::span<const PackedRows> rows) override {
    return FillPanels(spec, [&](int, const PanelRows& panel) {
      return cpu::CopyPackedPanel(spec, rows, panel.begin, panel.end, panel.padded, panel.data);
    });
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> MapPacked(
      const LinearSpec& spec, std::span<const PackedRows> rows) override {
    const cpu::RunLayout layout(spec);
    std::vector<cpu::Segment> segments;
    std::vector<std::unique_ptr<LinearWeight>> copies;
    for (const cpu::RowRun& run : cpu::RunsOf(rows)) {
      const PackedRows& of = rows[run.matrix];
      if (run.whole_panels) {
        segments.push_back({.data = of.mapped + cpu::RunOffset(layout, of, run),
                            .rows = run.rows(),
                            .row_bytes = layout.row_bytes(of.whole.columns()),
                            .skip_bytes = layout.row_bytes(spec.column_begin())});
        continue;
      }
      LinearSpec part = spec;
      part.rows = run.rows();
      const PackedRows own = {of.whole, run.begin, run.end, of.read};
      TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<LinearWeight> copy, PackFrom(part, {&own, 1}));
      segments.push_back(static_cast<const CpuLinearWeight&>(*copy).segments.front());
      copies.push_back(std::move(copy));
    }
    std::vector<std::span<const std::byte>> mapped;
    for (const MappedView::Piece& piece : cpu::ViewRows(spec, rows).pieces) {
      mapped.push_back({rows[piece.matrix].mapped + piece.offset, piece.bytes});
    }
    TANDEM_RETURN_IF_ERROR(ReserveActivations(spec));
    return std::make_unique<CpuLinearWeight>(spec, std::move(segments), std::move(mapped),
                                             std::move(copies));
  }

  MappedView ViewPacked(const LinearSpec& spec, std::span<const PackedRows> rows) const override {
    return cpu::ViewRows(spec, rows);
  }

  std::string_view packed_layout() const override { return "panels of 64 and 16 rows, 1"; }

  size_t PackedBytes(const LinearSpec& spec) const override {
    return static_cast<size_t>(cpu::PanelLayout(spec.rows).padded_rows() *
                               cpu::RunLayout(spec).row_bytes(spec.columns()));
  }

  void Linear(const LinearWeight& weight, const float* x, int64_t tokens, const float* bias,
              float* y) override {
    const auto& w = static_cast<const CpuLinearWeight&>(weight);
    TANDEM_CHECK(bias == nullptr || w.schedule.subtrees == 1);
    if (tokens == 0 || w.schedule.subtrees == 0 || w.spec.rows == 0) return;
    const int64_t chunk = TokensAtATime(w, tokens);
    for (int64_t t = 0; t < tokens; t += chunk) {
      LinearChunk(w, x + t * w.spec.columns(), std::min(chunk, tokens - t),
                  {.layout = &w.layout,
                   .schedule = &w.schedule,
                   .segments = w.segments,
                   .rows = w.spec.rows,
                   .first_token = t,
                   .tokens = tokens,
                   .bias = bias,
                   .y = y});
    }
  }

  void EmbedTokens(const void* host_table, DType dtype, int64_t hidden, const int32_t* ids,
                   int64_t tokens, float* out) override {
    const auto* table = static_cast<const std::byte*>(host_table);
    ForTokens(tokens, [&](int64_t t) {
      cpu::WidenRow(table + ids[t] * hidden * DTypeSize(dtype), dtype, hidden, out + t * hidden);
    });
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

  void PagedAttention(const PagedAttentionArgs& args) override { attention_.Run(pool_, args); }

  void SiluMul(const float* gate_up, int64_t tokens, int64_t columns, float* out) override {
    // Costly enough to share a single token's columns.
    const int64_t pieces = (columns + kActivationColumns - 1) / kActivationColumns;
    pool_.ParallelFor(tokens * pieces, 1, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = i / pieces;
        const int64_t first = i % pieces * kActivationColumns;
        const float* gate = gate_up + t * 2 * columns + first;
        cpu::SiluMulRow(gate, gate + columns, std::min(kActivationColumns, columns - first),
                        out + t * columns + first);
      }
    });
  }

  void GatherRows(const float* x, const int32_t* indices, int64_t rows, int64_t columns,
                  float* out) override {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(out + r * columns, x + indices[r] * columns, columns * sizeof(float));
    }
  }

 private:
  // Rows [begin, end) of a weight, in a panel of `padded` rows at data.
  struct PanelRows {
    int64_t begin;
    int64_t end;
    int64_t padded;
    std::byte* data;
  };

  // Memory for a weight, filled panel by panel by fill(thread, panel) on all threads.
  template <typename Fill>
  absl::StatusOr<std::unique_ptr<LinearWeight>> FillPanels(const LinearSpec& spec,
                                                           const Fill& fill) {
    TANDEM_ASSIGN_OR_RETURN(WeightMemory::Piece piece, weights_.Allocate(PackedBytes(spec)));
    TANDEM_RETURN_IF_ERROR(ReserveActivations(spec));
    const cpu::PanelLayout panels(spec.rows);
    const int64_t row_bytes = cpu::RunLayout(spec).row_bytes(spec.columns());
    std::vector<absl::Status> statuses(pool_.size());
    if (row_bytes > 0) {
      pool_.ParallelFor(panels.panels(), 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end && statuses[thread].ok(); ++p) {
          const int64_t first = panels.first_row(p);
          const int64_t last = std::min(first + panels.panel_rows(p), spec.rows);
          statuses[thread] = fill(thread, PanelRows{first, last, panels.panel_rows(p),
                                                    piece.data.data() + first * row_bytes});
        }
      });
    }
    for (const absl::Status& status : statuses) TANDEM_RETURN_IF_ERROR(status);
    return std::make_unique<CpuLinearWeight>(spec, std::move(piece));
  }

  absl::Status ReserveActivations(const LinearSpec& spec) {
    if (activations_.bytes() < ActivationBytes(spec)) {
      // A small model touches little of it.
      TANDEM_ASSIGN_OR_RETURN(activations_, AllocateHost(ActivationBytes(spec), Pages::kSmall));
    }
    return absl::OkStatus();
  }

  // What one token block of the widest layer takes, at least.
  static size_t ActivationBytes(const LinearSpec& spec) {
    return std::max(kActivationBytes, cpu::Activations::Bytes(cpu::RunLayout(spec), spec.columns(),
                                                              cpu::kTokenBlock));
  }

  // All tokens, or as many token blocks as the room for activations holds.
  int64_t TokensAtATime(const CpuLinearWeight& w, int64_t tokens) const {
    const size_t block = cpu::Activations::Bytes(w.layout, w.spec.columns(), cpu::kTokenBlock) + 64;
    const int64_t most = std::max<int64_t>(1, activations_.bytes() / block) * cpu::kTokenBlock;
    const int64_t chunks = (tokens + most - 1) / most;
    return cpu::RoundUp((tokens + chunks - 1) / chunks, cpu::kTokenBlock);
  }

  void LinearChunk(const CpuLinearWeight& w, const float* x, int64_t tokens,
                   const cpu::LinearArgs& args) {
    const int64_t columns = w.spec.columns();
    const size_t bytes = cpu::RoundUp(cpu::Activations::Bytes(w.layout, columns, tokens), 64);
    const auto at = [&](int thread) {
      return cpu::Activations::In(activations_.as<std::byte>() + thread * bytes, w.layout, columns,
                                  tokens);
    };
    const bool own =
        tokens * columns <= kOwnActivations && bytes * pool_.size() <= activations_.bytes();
    if (!own) {
      pool_.Run([&](int thread) {
        const Share share = ShareOf(tokens, thread, pool_.size());
        cpu::PackActivations(w.layout, x, columns, share.begin, share.end, at(0));
      });
    }
    // A thread that gets less of the memory's bandwidth leaves panels to the others.
    const size_t scratch = cpu::LinearScratchFloats(w.schedule);
    const int64_t panel_bytes = cpu::kPanelRows * w.layout.row_bytes(columns);
    const int64_t share = (w.panels() + pool_.size() - 1) / pool_.size();
    const int64_t grain = std::clamp<int64_t>(kPieceBytes / panel_bytes, 1, share);
    packed_.assign(pool_.size(), !own);
    pool_.ParallelFor(w.panels(), grain, [&](int thread, int64_t begin, int64_t end) {
      cpu::LinearArgs mine = args;
      mine.x = at(own ? thread : 0);
      mine.prefetches = prefetches_;
      if (!packed_[thread]) {
        cpu::PackActivations(w.layout, x, columns, 0, tokens, mine.x);
        packed_[thread] = true;
      }
      linear_[static_cast<int>(w.layout.kind)](mine, begin, end, Scratch(thread, scratch));
    });
  }

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
  WeightMemory weights_;
  Buffer activations_;
  std::vector<char> packed_;  // [threads]: the thread has its own copy of the activations
  const cpu::LinearKernels linear_;
  const bool prefetches_ = cpu::FetchesTooLittle();
  cpu::Attention attention_;
};

// An instruction set by name: Highway's target, and the dot-product instructions
// beside it.
struct Isa {
  std::string_view name;
  int64_t target;
  cpu::DotInstructions dot;
};
constexpr Isa kIsas[] = {{"avx2", HWY_AVX2, {}},
                         {"avx3", HWY_AVX3, {}},
                         {"vnni", HWY_AVX3, {.vnni = true}},
                         {"bf16", HWY_AVX3, {.vnni = true, .bf16 = true}},
                         {"neon", HWY_NEON, {}}};
// Those that have fused multiply-adds.
constexpr int64_t kTargets = HWY_AVX2 | HWY_AVX3 | HWY_NEON;

const Isa* FindIsa(const std::string& name) {
  for (const Isa& isa : kIsas) {
    if (isa.name == name) return &isa;
  }
  return nullptr;
}

cpu::DotInstructions DotInstructionsFor(const std::string& name) {
  const Isa* isa = FindIsa(name);
  if (isa != nullptr) return isa->dot;
  if ((hwy::SupportedTargets() & HWY_AVX3) == 0) return {};
  return cpu::SupportedDotInstructions();
}

}  // namespace

absl::Status PinIsa(const std::string& isa) {
  if (isa == "auto" || isa == "ref") return absl::OkStatus();
  const Isa* found = FindIsa(isa);
  if (found == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("isa: found '", isa, "', expected auto, avx2, avx3, vnni, bf16, neon or ref"));
  }
  const cpu::DotInstructions dot = cpu::SupportedDotInstructions();
  if ((hwy::SupportedTargets() & found->target) == 0 || (found->dot.vnni && !dot.vnni) ||
      (found->dot.bf16 && !dot.bf16)) {
    return absl::InvalidArgumentError(absl::StrCat("isa: this CPU lacks '", isa, "'; choose auto"));
  }
  // Targets better than the named one have lower bits. DisableTargets would not
  // do: in Highway 1.0.3 each SupportedTargets() chooses among all targets again.
  const int64_t allowed = hwy::SupportedTargets() & ~(found->target - 1);
  hwy::SetSupportedTargetsForTest(allowed);
  hwy::GetChosenTarget().Update(allowed);
  return absl::OkStatus();
}

std::string IsaInUse(const std::string& isa) {
  if (isa == "ref" || (hwy::SupportedTargets() & kTargets) == 0) return "ref";
  const cpu::DotInstructions dot = DotInstructionsFor(isa);
  return absl::StrCat(cpu::IsaName(), dot.vnni ? "+VNNI" : "", dot.bf16 ? "+BF16" : "");
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const std::string& isa,
                                                        const CpuOptions& options) {
  TANDEM_RETURN_IF_ERROR(PinIsa(isa));
  if (IsaInUse(isa) == "ref") return MakeRefBackend();
  cpu::LinearKernels kernels = cpu::HighwayLinearKernels();
  cpu::AttentionKernels attention = cpu::HighwayAttentionKernels();
  const cpu::DotInstructions dot = DotInstructionsFor(isa);
  cpu::UseDotInstructions(dot, kernels);
  cpu::UseDotInstructions(dot, attention);
  return std::make_unique<CpuBackend>(options, kernels, attention);
}

}  // namespace tandem::kernels
