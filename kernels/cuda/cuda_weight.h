// A linear layer's weight on the card.
#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/linear.h"

namespace tandem::kernels::cuda {

// Where the parts of a weight lie in its buffer.
struct WeightPlaces {
  size_t scales = 0;
  size_t zeros = 0;
  size_t tree = 0;
  size_t bytes = 0;

  static WeightPlaces Of(const LinearLayout& layout, bool with_tree);
};

class CudaLinearWeight : public LinearWeight {
 public:
  CudaLinearWeight(const LinearSpec& spec, const LinearLayout& layout, bool with_tree, Buffer data);
  size_t bytes() const override { return data_.bytes(); }

  const LinearLayout layout;
  const WeightPlaces places;
  LinearPointers pointers;

 private:
  Buffer data_;
};

// Rows as the layout has them, from row-major ones of `columns` elements; dst is
// [rows, chunks, 16 bytes]. to_half: BF16 elements become FP16.
void LayOutRows(const LinearLayout& layout, const std::byte* rows, int64_t count, bool to_half,
                std::byte* dst);
void LayOutCodes(const LinearLayout& layout, const int8_t* codes, int64_t count, std::byte* dst);

}  // namespace tandem::kernels::cuda
