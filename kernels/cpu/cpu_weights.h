// Weights of linear layers in the host's memory, packed into panels (panel_layout.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/panel_layout.h"
#include "kernels/device_memory.h"
#include "kernels/weight_store.h"

namespace tandem::kernels::cpu {

// Memory of weights, one after the other. With an allocation for each weight, the first and the
// last part of each would be on small pages, which are slower to read.
class WeightMemory {
 public:
  struct Region {
    std::shared_ptr<Buffer> slab;  // lives until the last weight in it is gone
    std::span<std::byte> data;
  };
  absl::StatusOr<Region> Allocate(size_t bytes);

 private:
  std::shared_ptr<Buffer> slab_;  // the last
  size_t used_ = 0;               // bytes of it
};

class CpuLinearWeight : public LinearWeight {
 public:
  CpuLinearWeight(const LinearSpec& spec, WeightMemory::Region panels);
  // Of segments in order: in memory of others (`mapped`) and in `copies`.
  CpuLinearWeight(const LinearSpec& spec, std::vector<Segment> segments,
                  std::vector<std::span<const std::byte>> mapped,
                  std::vector<std::unique_ptr<LinearWeight>> copies);
  size_t bytes() const override;
  std::span<const std::byte> packed() const override { return panels_.data; }
  std::span<const std::span<const std::byte>> mapped() const override { return mapped_; }
  int64_t panels() const;

  const SpanLayout layout;
  std::vector<Segment> segments;

 private:
  WeightMemory::Region panels_;
  std::vector<std::span<const std::byte>> mapped_;
  std::vector<std::unique_ptr<LinearWeight>> copies_;
};

// See PackLinear and PackedBytes.
size_t PackedBytes(const LinearSpec& spec);

// Packs weights on the threads of a pool, which outlives it. Functions as in WeightStore.
class PanelPacker {
 public:
  explicit PanelPacker(ThreadPool& pool) : pool_(pool) {}

  using Weight = absl::StatusOr<std::unique_ptr<LinearWeight>>;
  Weight PackLinear(const LinearSpec& spec, RowReader read_rows);
  Weight PackQuantized(const LinearSpec& spec, QuantizedRowReader read_rows);
  Weight CopyPackedRows(const LinearSpec& spec, std::span<const PackedRows> rows);
  Weight MapPackedRows(const LinearSpec& spec, std::span<const PackedRows> rows);

 private:
  // Rows [begin, end) of a weight, in a panel of `padded` rows at data.
  struct PanelRows {
    int64_t begin;
    int64_t end;
    int64_t padded;
    std::byte* data;
  };
  using Fill = absl::FunctionRef<absl::Status(int thread, const PanelRows& panel)>;
  // Memory for a weight, filled panel by panel on all threads.
  Weight FillPanels(const LinearSpec& spec, Fill fill);

  ThreadPool& pool_;
  WeightMemory memory_;
};

}  // namespace tandem::kernels::cpu
