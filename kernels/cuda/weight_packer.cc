#include "kernels/cuda/weight_packer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_status.h"

namespace tandem::kernels::cuda {
namespace {

// Bytes that a thread takes at a time, at least a row.
constexpr int64_t kTakenBytes = 256 << 10;

}  // namespace

absl::Status WeightPacker::Pack(const CudaLinearWeight& weight, Place place, bool to_half,
                                RowReader read_rows) {
  const WeightLayout& layout = weight.layout;
  const int64_t plain_bytes = layout.columns * static_cast<int64_t>(DTypeSize(weight.spec.dtype));
  const bool as_read = plain_bytes == layout.row_bytes() && !to_half;
  std::vector<std::vector<std::byte>> scratch(pool_.size());
  return FillRows(layout, place,
                  [&](int thread, int64_t begin, int64_t end, std::byte* dst) -> absl::Status {
                    if (as_read) return read_rows(begin, end, dst);
                    std::vector<std::byte>& rows = scratch[thread];
                    rows.resize((end - begin) * plain_bytes);
                    TANDEM_RETURN_IF_ERROR(read_rows(begin, end, rows.data()));
                    LayOutRows(layout, rows.data(), end - begin, to_half, dst);
                    return absl::OkStatus();
                  });
}

absl::Status WeightPacker::PackQuantized(const CudaLinearWeight& weight, Place place,
                                         QuantizedRowReader read_rows) {
  const WeightLayout& layout = weight.layout;
  const int64_t groups = layout.groups;
  std::vector<std::vector<int8_t>> scratch(pool_.size());
  std::vector<float> scales(layout.rows * groups);
  std::vector<uint8_t> zeros(layout.zero_points ? layout.rows * groups : 0);
  TANDEM_RETURN_IF_ERROR(FillRows(
      layout, place, [&](int thread, int64_t begin, int64_t end, std::byte* dst) -> absl::Status {
        std::vector<int8_t>& codes = scratch[thread];
        codes.resize((end - begin) * layout.columns);
        TANDEM_RETURN_IF_ERROR(
            read_rows(begin, end,
                      {.codes = codes.data(),
                       .scales = scales.data() + begin * groups,
                       .zeros = layout.zero_points ? zeros.data() + begin * groups : nullptr}));
        LayOutCodes(layout, codes.data(), end - begin, dst);
        return absl::OkStatus();
      }));
  if (layout.scale_dtype == DType::kF32) {
    TANDEM_RETURN_IF_ERROR(Put(place, weight.places.scales, scales.data(), layout.scale_bytes()));
  } else {
    std::vector<uint16_t> narrow;
    narrow.reserve(scales.size());
    for (const float scale : scales) {
      narrow.push_back(layout.scale_dtype == DType::kF16 ? FloatToF16(scale) : FloatToBf16(scale));
    }
    TANDEM_RETURN_IF_ERROR(Put(place, weight.places.scales, narrow.data(), layout.scale_bytes()));
  }
  return Put(place, weight.places.zeros, zeros.data(), zeros.size());
}

absl::Status WeightPacker::PackTree(const CudaLinearWeight& weight, Place place) {
  std::vector<int32_t> steps;
  for (const LeafStep& step : weight.schedule.steps) {
    steps.push_back(2 * step.merges + (step.emit ? 1 : 0));
  }
  return Put(place, weight.places.tree, steps.data(), steps.size() * sizeof(int32_t));
}

absl::Status WeightPacker::Copy(std::byte* dst, const void* src, size_t bytes) {
  const auto* from = static_cast<const std::byte*>(src);
  for (size_t done = 0; done < bytes;) {
    const size_t n = std::min(bytes - done, PinnedUpload::kBytes);
    std::memcpy(upload_.Acquire(), from + done, n);
    TANDEM_RETURN_IF_ERROR(CudaStatus(upload_.Submit(dst + done, n), "copy to it"));
    done += n;
  }
  return absl::OkStatus();
}

absl::Status WeightPacker::FillRows(const WeightLayout& layout, Place place, Fill fill) {
  const int64_t row_bytes = layout.row_bytes();
  if (place.host != nullptr) {
    return FillInParallel(0, layout.rows, row_bytes, place.host, fill);
  }
  const int64_t at_once = static_cast<int64_t>(PinnedUpload::kBytes) / row_bytes;
  TANDEM_CHECK(at_once > 0);
  for (int64_t row = 0; row < layout.rows; row += at_once) {
    const int64_t end = std::min<int64_t>(row + at_once, layout.rows);
    TANDEM_RETURN_IF_ERROR(FillInParallel(row, end, row_bytes, upload_.Acquire(), fill));
    TANDEM_RETURN_IF_ERROR(CudaStatus(
        upload_.Submit(place.gpu + row * row_bytes, (end - row) * row_bytes), "copy to it"));
  }
  return absl::OkStatus();
}

absl::Status WeightPacker::FillInParallel(int64_t begin, int64_t end, int64_t row_bytes,
                                          std::byte* dst, Fill fill) {
  std::mutex mutex;
  absl::Status status;
  int64_t failed = std::numeric_limits<int64_t>::max();
  const int64_t rows = end - begin;
  // Several ranges for each thread, also where rows are few.
  const int64_t grain = std::clamp<int64_t>(rows / (4 * pool_.size()), 1,
                                            std::max<int64_t>(1, kTakenBytes / row_bytes));
  pool_.ParallelFor(rows, grain, [&](int thread, int64_t first, int64_t last) {
    const absl::Status filled = fill(thread, begin + first, begin + last, dst + first * row_bytes);
    if (filled.ok()) return;
    const std::lock_guard lock(mutex);
    if (first < failed) {
      failed = first;
      status = filled;
    }
  });
  return status;
}

absl::Status WeightPacker::Put(Place place, size_t offset, const void* src, size_t bytes) {
  if (place.host == nullptr) return Copy(place.gpu + offset, src, bytes);
  if (bytes > 0) std::memcpy(place.host + offset, src, bytes);
  return absl::OkStatus();
}

}  // namespace tandem::kernels::cuda
