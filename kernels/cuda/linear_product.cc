#include "kernels/cuda/linear_product.h"

#include <algorithm>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_tiles.h"

namespace tandem::kernels::cuda {
namespace {

// LinearPass multiplies up to `pass` tokens, LinearTiles up to `tiles`, cuBLASLt more.
struct TokenLimits {
  int64_t pass = 0, tiles = 0;
};

// Not measured, but estimated, in cycles of a multiprocessor for 16 by 16 weights. Reading them
// takes 25 (BF16), 12 (8 bits) or 6 (INT4) cycles on an H200 and 8 times as many on an L4.
// LinearPass takes about 4 for each token. LinearTiles takes 16 for 64 tokens and reads the weight
// once for them. Widening codes in memory for cuBLASLt takes 55 or more, as long as 200 tokens.
TokenLimits LimitsOf(bool quantized, bool tiles) {
  if (quantized) return tiles ? TokenLimits{4, 256} : TokenLimits{32, 32};
  return tiles ? TokenLimits{8, 64} : TokenLimits{16, 16};
}

}  // namespace

void LinearProduct::Multiply(const CudaLinearWeight& weight, const float* x, int64_t tokens,
                             const float* bias, float* y) {
  const WeightLayout& layout = weight.layout;
  if (tokens == 0 || layout.rows == 0) return;
  if (layout.columns == 0) {
    if (deterministic_) return;
    errors_.Check(cudaMemsetAsync(y, 0, tokens * layout.rows * sizeof(float), stream_), "zeros");
    return;
  }
  const TokenLimits limits = LimitsOf(layout.quantized(), Tileable(layout) && FitsScratch(layout));
  if (!deterministic_ && tokens > limits.pass) {
    if (tokens <= limits.tiles) return MultiplySome(weight, x, tokens, bias, y);
    if (TakenByLibrary(layout)) return MultiplyMany(weight, x, tokens, bias, y);
  }
  for (int64_t t = 0; t < tokens; t += kPassTokens) {
    LinearPass(stream_, layout, weight.pointers(), x, tokens, t,
               std::min<int64_t>(kPassTokens, tokens - t), bias, y);
  }
}

DType LinearProduct::ProductType(const WeightLayout& layout) const {
  if (layout.format == Format::kF32) return DType::kF32;
  return layout.format == Format::kF16 || !gpu_.has_bf16 ? DType::kF16 : DType::kBF16;
}

bool LinearProduct::FitsScratch(const WeightLayout& layout) const {
  return layout.columns * DTypeSize(ProductType(layout)) <= scratch_.bytes();
}

bool LinearProduct::TakenByLibrary(const WeightLayout& layout) const {
  return (layout.quantized() || layout.plain()) &&
         layout.columns * DTypeSize(ProductType(layout)) % 16 == 0 && FitsScratch(layout);
}

void LinearProduct::MultiplySome(const CudaLinearWeight& weight, const float* x, int64_t tokens,
                                 const float* bias, float* y) {
  const WeightLayout& layout = weight.layout;
  const DType dtype = ProductType(layout);
  const int64_t fit =
      static_cast<int64_t>(scratch_.narrow.bytes() / DTypeSize(dtype)) / layout.columns;
  for (int64_t t = 0; t < tokens; t += fit) {
    const int64_t n = std::min(fit, tokens - t);
    Narrow(stream_, x + t * layout.columns, dtype, n * layout.columns, scratch_.narrow.data());
    LinearTiles(stream_, layout, weight.pointers(), dtype, scratch_.narrow.data(), n, bias,
                TileSplits(layout, n, gpu_.multiprocessors, scratch_.partials.bytes()),
                scratch_.partials.as<float>(), y + t * layout.rows);
  }
}

void LinearProduct::MultiplyMany(const CudaLinearWeight& weight, const float* x, int64_t tokens,
                                 const float* bias, float* y) {
  const WeightLayout& layout = weight.layout;
  const int64_t columns = layout.columns;
  const DType dtype = ProductType(layout);
  const bool single = dtype == DType::kF32;
  const int64_t row_bytes = columns * static_cast<int64_t>(DTypeSize(dtype));
  const int64_t rows_at_once =
      layout.quantized() ? static_cast<int64_t>(scratch_.widened.bytes()) / row_bytes : layout.rows;
  const int64_t tokens_at_once =
      single ? tokens : static_cast<int64_t>(scratch_.narrow.bytes()) / row_bytes;
  for (int64_t t = 0; t < tokens; t += tokens_at_once) {
    const int64_t n = std::min(tokens_at_once, tokens - t);
    const void* activations = x + t * columns;
    if (!single) {
      Narrow(stream_, x + t * columns, dtype, n * columns, scratch_.narrow.data());
      activations = scratch_.narrow.data();
    }
    for (int64_t row = 0; row < layout.rows; row += rows_at_once) {
      const int64_t end = std::min<int64_t>(row + rows_at_once, layout.rows);
      const void* w = weight.pointers().weight;
      int64_t stride = layout.row_bytes() / static_cast<int64_t>(DTypeSize(dtype));
      if (layout.quantized()) {
        Dequantize(stream_, layout, weight.pointers(), row, end, dtype, scratch_.widened.data());
        w = scratch_.widened.data();
        stride = columns;
      }
      errors_.Keep(product_.Multiply({.dtype = dtype,
                                      .rows = end - row,
                                      .columns = columns,
                                      .tokens = n,
                                      .w_stride = stride,
                                      .y_stride = layout.rows},
                                     w, activations, y + t * layout.rows + row));
    }
  }
  if (bias != nullptr) AddBias(stream_, bias, tokens, layout.rows, y);
}

}  // namespace tandem::kernels::cuda
