#include "kernels/cpu/cpu_weights.h"

#include <algorithm>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/packed_rows.h"
#include "kernels/host_memory.h"

namespace tandem::kernels::cpu {
namespace {

constexpr size_t kSmallBytes = size_t{256} << 10;
constexpr size_t kSlabBytes = size_t{256} << 20;
constexpr int64_t kHugePage = int64_t{2} << 20;

}  // namespace

absl::StatusOr<WeightMemory::Region> WeightMemory::Allocate(size_t bytes) {
  if (bytes < kSmallBytes) {
    // A whole huge page would be much for a model of such small weights.
    TANDEM_ASSIGN_OR_RETURN(Buffer own, AllocateHost(bytes));
    const std::span<std::byte> data = {own.as<std::byte>(), bytes};
    return Region{std::make_shared<Buffer>(std::move(own)), data};
  }
  if (slab_ == nullptr || slab_->bytes() - used_ < bytes) {
    // Pages that are not written take no memory. The kernel aligns mappings to huge pages if
    // their length is a multiple of one.
    const auto size = RoundUp(static_cast<int64_t>(std::max(bytes, kSlabBytes)), kHugePage);
    TANDEM_ASSIGN_OR_RETURN(Buffer slab, AllocateHost(static_cast<size_t>(size)));
    slab_ = std::make_shared<Buffer>(std::move(slab));
    used_ = 0;
  }
  const Region region = {slab_, {slab_->as<std::byte>() + used_, bytes}};
  used_ += RoundUp(static_cast<int64_t>(bytes), 64);
  used_ = std::min(used_, slab_->bytes());
  return region;
}

CpuLinearWeight::CpuLinearWeight(const LinearSpec& spec, WeightMemory::Region panels)
    : LinearWeight(spec), layout(spec), panels_(std::move(panels)) {
  segments.push_back({.data = panels_.data.data(),
                      .rows = spec.rows,
                      .row_bytes = layout.row_bytes(spec.columns())});
}

CpuLinearWeight::CpuLinearWeight(const LinearSpec& spec, std::vector<Segment> segments,
                                 std::vector<std::span<const std::byte>> mapped,
                                 std::vector<std::unique_ptr<LinearWeight>> copies)
    : LinearWeight(spec),
      layout(spec),
      segments(std::move(segments)),
      mapped_(std::move(mapped)),
      copies_(std::move(copies)) {}

size_t CpuLinearWeight::bytes() const {
  size_t bytes = panels_.data.size();
  for (const auto& copy : copies_) bytes += RoundUp(static_cast<int64_t>(copy->bytes()), 64);
  return bytes;
}

int64_t CpuLinearWeight::panels() const {
  int64_t panels = 0;
  for (const Segment& segment : segments) panels += PanelLayout(segment.rows).panels();
  return panels;
}

size_t PackedBytes(const LinearSpec& spec) {
  return static_cast<size_t>(PanelLayout(spec.rows).padded_rows() *
                             SpanLayout(spec).row_bytes(spec.columns()));
}

PanelPacker::Weight PanelPacker::PackLinear(const LinearSpec& spec, RowReader read_rows) {
  const SpanLayout layout(spec);
  const int64_t columns = spec.columns();
  std::vector<std::vector<std::byte>> buffers(pool_.size());
  return FillPanels(spec, [&](int thread, const PanelRows& panel) -> absl::Status {
    std::vector<std::byte>& rows = buffers[thread];
    rows.resize(kPanelRows * columns * DTypeSize(spec.dtype));
    TANDEM_RETURN_IF_ERROR(read_rows(panel.begin, panel.end, rows.data()));
    PackPanel(layout, rows.data(), panel.end - panel.begin, columns, panel.padded, panel.data);
    return absl::OkStatus();
  });
}

PanelPacker::Weight PanelPacker::PackQuantized(const LinearSpec& spec,
                                               QuantizedRowReader read_rows) {
  const SpanLayout layout(spec);
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
    buffer.codes.resize(kPanelRows * columns);
    buffer.scales.resize(kPanelRows * groups);
    if (spec.quant->zero_points) buffer.zeros.resize(kPanelRows * groups);
    const QuantizedRows rows = {buffer.codes.data(), buffer.scales.data(), buffer.zeros.data()};
    TANDEM_RETURN_IF_ERROR(read_rows(panel.begin, panel.end, rows));
    PackQuantizedPanel(layout, rows, panel.end - panel.begin, columns, spec.column_begin(),
                       spec.quant->group_size, groups, panel.padded, panel.data);
    return absl::OkStatus();
  });
}

PanelPacker::Weight PanelPacker::CopyPackedRows(const LinearSpec& spec,
                                                std::span<const PackedRows> rows) {
  return FillPanels(spec, [&](int, const PanelRows& panel) {
    return CopyPackedPanel(spec, rows, panel.begin, panel.end, panel.padded, panel.data);
  });
}

PanelPacker::Weight PanelPacker::MapPackedRows(const LinearSpec& spec,
                                               std::span<const PackedRows> rows) {
  const SpanLayout layout(spec);
  std::vector<Segment> segments;
  std::vector<std::unique_ptr<LinearWeight>> copies;
  for (const PackedRowRange& range : PackedRowRanges(rows)) {
    const PackedRows& matrix = rows[range.matrix];
    if (range.whole_panels) {
      segments.push_back({.data = matrix.mapped + PackedOffset(layout, matrix, range),
                          .rows = range.rows(),
                          .row_bytes = layout.row_bytes(matrix.whole.columns()),
                          .skip_bytes = layout.row_bytes(spec.column_begin())});
      continue;
    }
    LinearSpec part = spec;
    part.rows = range.rows();
    const PackedRows own = {matrix.whole, range.begin, range.end, matrix.read};
    TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<LinearWeight> copy, CopyPackedRows(part, {&own, 1}));
    segments.push_back(static_cast<const CpuLinearWeight&>(*copy).segments.front());
    copies.push_back(std::move(copy));
  }
  std::vector<std::span<const std::byte>> mapped;
  for (const PackedRowsPlan::Range& range : PlanPackedRows(spec, rows).in_place) {
    mapped.push_back({rows[range.matrix].mapped + range.offset, range.bytes});
  }
  return std::make_unique<CpuLinearWeight>(spec, std::move(segments), std::move(mapped),
                                           std::move(copies));
}

PanelPacker::Weight PanelPacker::FillPanels(const LinearSpec& spec, Fill fill) {
  TANDEM_ASSIGN_OR_RETURN(WeightMemory::Region region, memory_.Allocate(PackedBytes(spec)));
  const PanelLayout panels(spec.rows);
  const int64_t row_bytes = SpanLayout(spec).row_bytes(spec.columns());
  std::vector<absl::Status> statuses(pool_.size());
  if (row_bytes > 0) {
    pool_.ParallelFor(panels.panels(), 1, [&](int thread, int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end && statuses[thread].ok(); ++p) {
        const int64_t first = panels.first_row(p);
        const int64_t last = std::min(first + panels.panel_rows(p), spec.rows);
        statuses[thread] = fill(thread, PanelRows{first, last, panels.panel_rows(p),
                                                  region.data.data() + first * row_bytes});
      }
    });
  }
  for (const absl::Status& status : statuses) TANDEM_RETURN_IF_ERROR(status);
  return std::make_unique<CpuLinearWeight>(spec, std::move(region));
}

}  // namespace tandem::kernels::cpu
