// Products on matrix units against exact ones in double precision: activations are of 16 bits
// beforehand, so that only fp32 sums are left to differ.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/base/math.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/linear_tiles.h"
#include "tests/support/device_array.h"
#include "tests/support/linear_layer.h"

namespace tandem::kernels {
namespace {

using testing::CheckLinear;
using testing::DeviceArray;
using testing::LinearCase;
using testing::LinearLayer;
using testing::RandomFloats;

class CudaLinearTiles : public ::testing::TestWithParam<LinearCase> {};

struct Activations {
  std::vector<uint16_t> bits;
  std::vector<float> values;
};

Activations RandomActivations(int64_t count, DType dtype) {
  Activations x;
  for (const float value : RandomFloats(count, 5)) {
    const uint16_t bits = dtype == DType::kF16 ? FloatToF16(value) : FloatToBf16(value);
    x.bits.push_back(bits);
    x.values.push_back(dtype == DType::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits));
  }
  return x;
}

bool HasBf16() {
  cudaDeviceProp properties;
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  return properties.major >= 8;
}

// The layout's types of activations: a GPU without BF16 has codes too, and no other type.
std::vector<DType> TypesOf(const LinearCase& c) {
  if (!HasBf16()) return {DType::kF16};
  if (c.quant) return {DType::kBF16, DType::kF16};
  return {c.dtype};
}

void CheckTiles(Backend& backend, const LinearCase& c, int64_t rows, int64_t columns, int64_t leaf,
                LeafRange owned, const std::vector<int64_t>& token_counts, int splits) {
  SCOPED_TRACE(absl::StrCat(rows, " rows, ", columns, " columns, leaf ", leaf, ", leaves ",
                            owned.begin, " to ", owned.end, ", ", splits, " splits"));
  const LinearLayer layer(c, rows, columns);
  const auto weight = layer.Pack(backend, leaf, owned);
  const auto& packed = static_cast<const cuda::CudaLinearWeight&>(*weight);
  ASSERT_TRUE(cuda::Tileable(packed.layout));
  const int64_t first = weight->spec.column_begin(), n = weight->spec.columns();
  const auto bias = RandomFloats(rows, 7);
  const DeviceArray<float> db(backend, bias);
  for (const DType dtype : TypesOf(c)) {
    for (const int64_t tokens : token_counts) {
      const Activations x = RandomActivations(tokens * n, dtype);
      const DeviceArray<uint16_t> dx(backend, x.bits);
      const DeviceArray<float> partials(backend, std::vector<float>(splits * tokens * rows, NAN));
      const DeviceArray<float> dy(backend, std::vector<float>(tokens * rows, NAN));
      cuda::LinearTiles(CudaBackend::Of(backend).stream(), packed.layout, packed.pointers(), dtype,
                        dx.data(), tokens, db.data(), splits,
                        splits == 1 ? nullptr : partials.data(), dy.data());
      const auto y = dy.ToHost();
      ASSERT_TRUE(backend.status().ok()) << backend.status();
      // Codes less zero points are exact. Matrix units may cut sums off instead of rounding them.
      CheckLinear(layer, x.values, tokens, {{first, first + n}}, first, n, {.terms = 2}, bias, y);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST_P(CudaLinearTiles, AreCloseToExact) {
  const auto backend = *MakeCudaBackend({});
  const LinearCase& c = GetParam();
  // Rows and columns that fill a tile, a stage, or neither; shards that begin inside a group.
  CheckTiles(*backend, c, 5, 8, 128, {0, 1}, {1, 9}, 1);
  CheckTiles(*backend, c, 64, 256, 128, {0, 2}, {8, 65, 130}, 1);
  CheckTiles(*backend, c, 70, 1000, 128, {0, 8}, {1, 7, 17, 33}, 1);
  CheckTiles(*backend, c, 17, 1000, 128, {0, 8}, {3, 64}, 2);
  CheckTiles(*backend, c, 130, 1408, 128, {0, 11}, {12}, 3);
  CheckTiles(*backend, c, 20, 1408, 128, {3, 11}, {12}, 1);
  CheckTiles(*backend, c, 9, 640, 32, {3, 17}, {10}, 1);
  CheckTiles(*backend, c, 9, 640, 64, {1, 2}, {10}, 1);
}

std::vector<LinearCase> TiledCases() {
  std::vector<LinearCase> cases;
  for (const LinearCase& c : testing::LinearCases()) {
    const LinearSpec spec = {
        .dtype = c.dtype, .quant = c.quant, .rows = 1, .global_columns = 128, .leaves = {0, 1}};
    if (cuda::Tileable(cuda::WeightLayout::Of(spec, true))) cases.push_back(c);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaLinearTiles, ::testing::ValuesIn(TiledCases()),
                         [](const auto& info) { return info.param.name; });

TEST(CudaLinearTilesFit, WhatLayouts) {
  const auto tileable = [](const LinearCase& c, int64_t columns, int64_t leaf) {
    const LinearSpec spec = {.dtype = c.dtype,
                             .quant = c.quant,
                             .rows = 1,
                             .global_columns = columns,
                             .leaf_size = leaf,
                             .leaves = {0, (columns + leaf - 1) / leaf}};
    return cuda::Tileable(cuda::WeightLayout::Of(spec, true));
  };
  const LinearCase bf16 = {.dtype = DType::kBF16};
  const LinearCase int4 = {.quant = QuantFormat{.bits = 4}};
  EXPECT_TRUE(tileable(bf16, 4096, 128));
  EXPECT_FALSE(tileable({.dtype = DType::kF32}, 4096, 128));
  EXPECT_FALSE(tileable(bf16, 4100, 128));
  EXPECT_TRUE(tileable(int4, 4096, 32));
  EXPECT_FALSE(tileable(int4, 96, 24));  // spans that end inside a chunk
  EXPECT_FALSE(tileable({.quant = QuantFormat{.bits = 8, .zero_points = true}}, 4096, 128));
}

TEST(CudaLinearTilesFit, Splits) {
  const LinearSpec spec = {
      .dtype = DType::kBF16, .rows = 1024, .global_columns = 4096, .leaves = {0, 32}};
  const auto layout = cuda::WeightLayout::Of(spec, true);
  constexpr size_t kRoom = 64 << 20;
  EXPECT_EQ(cuda::TileSplits(layout, 64, 4, kRoom), 1);    // rows alone fill it, twice
  EXPECT_EQ(cuda::TileSplits(layout, 64, 32, kRoom), 4);   // 16 blocks of rows, two each
  EXPECT_EQ(cuda::TileSplits(layout, 64, 132, kRoom), 8);  // no more than that
  EXPECT_EQ(cuda::TileSplits(layout, 64, 132, 3 * 64 * 1024 * sizeof(float)), 3);
  EXPECT_EQ(cuda::TileSplits(layout, 64, 132, 0), 1);
  // 448 blocks of rows where 396 go at once: in 4 splits they are 5 turns of a quarter, not 2.
  const auto wide = cuda::WeightLayout::Of(
      {.quant = QuantFormat{.bits = 4}, .rows = 28672, .global_columns = 4096, .leaves = {0, 32}},
      true);
  EXPECT_EQ(cuda::TileSplits(wide, 16, 132, kRoom), 4);
}

}  // namespace
}  // namespace tandem::kernels
