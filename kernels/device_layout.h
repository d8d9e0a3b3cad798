// What a kind of device does with a model's weights: all that a memory plan needs to know. A plan
// can so be made on a machine without such a device.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/linear_spec.h"
#include "kernels/packed_rows.h"

namespace tandem::kernels {

class DeviceLayout {
 public:
  virtual ~DeviceLayout() = default;

  // Whether the host may read and write the device's memory.
  virtual bool memory_is_host() const { return true; }
  // Whether Linear adds leaves along the sum tree. If not, it gives one partial sum of the
  // shard's leaves, in an order of its own, and zeros where the shard has no leaf.
  virtual bool KeepsLeafTree() const { return true; }
  // Whether weights of the format can be packed and multiplied.
  virtual bool SupportsFormat(const QuantFormat& format) const {
    return format.code_type == CodeType::kInteger;
  }
  // Whether tokens are chosen on the device (Operations::sampling), so that logits stay there.
  virtual bool SamplesOnDevice() const { return false; }
  // Bytes that PackLinear or PackQuantized will take.
  virtual size_t PackedBytes(const LinearSpec& spec) const = 0;
  // What MapPackedRows will do. Of the rows, it reads `whole`, row_begin and row_end alone.
  virtual PackedRowsPlan PlanPackedRows(const LinearSpec&, std::span<const PackedRows>) const {
    return {};
  }
};

}  // namespace tandem::kernels
