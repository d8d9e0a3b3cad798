// A linear layer's weight on the GPU.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/linear.h"

namespace tandem::kernels::cuda {

class CudaLinearWeight : public LinearWeight {
 public:
  CudaLinearWeight(const LinearSpec& spec, const WeightLayout& layout, bool with_tree, Buffer data);
  // A weight of a layer that is streamed (host_layers.h): at `offset` of the slot, which outlives
  // it.
  CudaLinearWeight(const LinearSpec& spec, const WeightLayout& layout, bool with_tree,
                   std::byte* const* slot, size_t offset);
  size_t bytes() const override { return data_.bytes(); }
  std::byte* data() const {
    return data_.as<std::byte>();
  }  // its own memory; null where it is streamed

  // For operations that are issued before another layer is entered.
  LinearPointers pointers() const;

  const WeightLayout layout;
  const WeightPlaces places;

 private:
  const bool with_tree_;
  Buffer data_;
  std::byte* const* const slot_ = nullptr;
  const size_t offset_ = 0;
};

// Rows as the layout has them, from row-major ones of `columns` elements; dst is
// [rows, chunks, 16 bytes]. to_half: BF16 elements become FP16.
void LayOutRows(const WeightLayout& layout, const std::byte* rows, int64_t count, bool to_half,
                std::byte* dst);
void LayOutCodes(const WeightLayout& layout, const int8_t* codes, int64_t count, std::byte* dst);

}  // namespace tandem::kernels::cuda
