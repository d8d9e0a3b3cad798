// How weights of linear layers get into a backend's own layout, and where they lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/layer_stream.h"
#include "kernels/linear_spec.h"
#include "kernels/packed_rows.h"

namespace tandem::kernels {

// A weight in a backend's own layout.
class LinearWeight {
 public:
  explicit LinearWeight(const LinearSpec& spec)
      : spec(spec), schedule(MakeLeafSchedule(spec.global_columns, spec.leaf_size, spec.leaves)) {}
  virtual ~LinearWeight() = default;
  // Bytes that the weight holds itself.
  virtual size_t bytes() const = 0;
  // Those bytes, to be kept and given to CopyPackedRows or MapPackedRows later; empty where the
  // backend's layout cannot be kept.
  virtual std::span<const std::byte> packed() const { return {}; }
  // Bytes that the weight reads in place (WeightStore::MapPackedRows); they do not count in
  // bytes().
  virtual std::span<const std::span<const std::byte>> mapped() const { return {}; }

  const LinearSpec spec;
  const LeafSchedule schedule;
};

// Fills dst with rows [row_begin, row_end) of a weight, row-major [rows, local columns], in the
// spec's dtype. Many threads may call it at once.
using RowReader =
    absl::FunctionRef<absl::Status(int64_t row_begin, int64_t row_end, std::byte* dst)>;

// Rows of a quantized weight, row-major, as a source gives them.
struct QuantizedRows {
  int8_t* codes = nullptr;   // [rows, local columns], one byte for each code
  float* scales = nullptr;   // [rows, local groups]
  uint8_t* zeros = nullptr;  // [rows, local groups], where the format has zero points
};

// The same for quantized rows.
using QuantizedRowReader =
    absl::FunctionRef<absl::Status(int64_t row_begin, int64_t row_end, QuantizedRows dst)>;

class WeightStore {
 public:
  virtual ~WeightStore() = default;

  // Errors of all functions: those of the reader, RESOURCE_EXHAUSTED where there is no room.
  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> PackLinear(const LinearSpec& spec,
                                                                   RowReader read_rows) = 0;
  // For a spec with a QuantFormat that the device supports (DeviceLayout::SupportsFormat).
  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> PackQuantized(
      const LinearSpec& spec, QuantizedRowReader read_rows) = 0;

  // The weight of `spec` from rows that were packed before; its bits are those of packing the
  // rows again. The wholes may differ from the spec in rows and leaves alone. UNIMPLEMENTED where
  // the backend's layout cannot be kept.
  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> CopyPackedRows(
      const LinearSpec& spec, std::span<const PackedRows> rows) = 0;
  // The same, but reads whole panels of rows in place and copies the others alone. UNIMPLEMENTED
  // where the backend reads its own memory alone.
  virtual absl::StatusOr<std::unique_ptr<LinearWeight>> MapPackedRows(const LinearSpec&,
                                                                      std::span<const PackedRows>) {
    return absl::UnimplementedError("this backend reads weights in its own memory alone");
  }
  // Name and version of the layout of LinearWeight::packed(); empty: it cannot be kept.
  virtual std::string_view packed_layout() const { return {}; }

  // Layers that do not fit the backend's memory stay packed in pinned memory of the host.
  // BeginHostLayer starts the next such layer: weights packed from then on belong to it.
  // StreamHostLayers ends the last one and returns the stream of all of them. The backend's memory
  // has room for two layers; each is copied there while the one before it computes. Multiply such
  // weights after LayerStream::Enter alone, and do not record those products. The stream must
  // outlive the use of the weights, the backend must outlive the stream. RESOURCE_EXHAUSTED where
  // the system pins no more memory.
  virtual absl::Status BeginHostLayer() {
    return absl::UnimplementedError("this backend's memory is the host's");
  }
  virtual absl::StatusOr<std::unique_ptr<LayerStream>> StreamHostLayers() {
    return absl::UnimplementedError("this backend's memory is the host's");
  }
};

}  // namespace tandem::kernels
