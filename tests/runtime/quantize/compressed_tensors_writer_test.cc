#include "runtime/quantize/compressed_tensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::quantize {
namespace {

using kernels::DType;
using ::testing::ElementsAre;

// The words are what compressed-tensors 0.20's pack_to_int32 makes of the same
// codes (less 8 and of the signed bytes, as it has them).
TEST(PackCodes, FirstCodeInLowBits) {
  const int8_t four[] = {1, 2, 3, 4, 5, 6, 7, 8, 15, 0, 9};
  EXPECT_THAT(PackCodes(four, 1, 11, 4), ElementsAre(0x87654321u, 0x90fu));
  EXPECT_THAT(PackCodes(four, 11, 1, 4), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 15, 0, 9));
  const int8_t eight[] = {-128, -127, 0, 127, 1};
  EXPECT_THAT(PackCodes(eight, 1, 5, 8), ElementsAre(0xff800100u, 0x81u));
}

TEST(PackZeroPoints, AlongTheRows) {
  // 10 rows of 2 groups: row r has zeros r and 15 - r.
  std::vector<uint8_t> zeros;
  for (uint8_t row = 0; row < 10; ++row) {
    zeros.push_back(row);
    zeros.push_back(static_cast<uint8_t>(15 - row));
  }
  EXPECT_THAT(PackZeroPoints(zeros.data(), 10, 2, 4),
              ElementsAre(0x76543210u, 0x89abcdefu, 0x98u, 0x67u));
}

TEST(StoreScales, InTheirType) {
  const float scales[] = {1.5f, -0.25f};
  const std::vector<std::byte> half = StoreScales(scales, DType::kF16);
  const std::vector<std::byte> brain = StoreScales(scales, DType::kBF16);
  const auto byte = [](int v) { return static_cast<std::byte>(v); };
  EXPECT_THAT(half, ElementsAre(byte(0x00), byte(0x3e), byte(0x00), byte(0xb4)));
  EXPECT_THAT(brain, ElementsAre(byte(0xc0), byte(0x3f), byte(0x80), byte(0xbe)));
  EXPECT_EQ(StoreScales(scales, DType::kF32).size(), 8u);
}

TEST(PackedTensors, NamesTypesAndShapes) {
  const auto tensors = PackedTensors(
      "m", 10, 64, {.bits = 4, .group_size = 32, .zero_points = true, .scale_dtype = DType::kBF16});
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors[0].name, "m.weight_packed");
  EXPECT_EQ(tensors[0].type, "I32");
  EXPECT_THAT(tensors[0].shape, ElementsAre(10, 8));
  EXPECT_EQ(tensors[1].name, "m.weight_scale");
  EXPECT_EQ(tensors[1].type, "BF16");
  EXPECT_THAT(tensors[1].shape, ElementsAre(10, 2));
  EXPECT_EQ(tensors[2].name, "m.weight_shape");
  EXPECT_EQ(tensors[2].type, "I64");
  EXPECT_EQ(tensors[3].name, "m.weight_zero_point");
  EXPECT_THAT(tensors[3].shape, ElementsAre(2, 2));
  EXPECT_EQ(PackedTensors("m", 10, 64, {.bits = 8, .group_size = 64}).size(), 3u);
}

TEST(PackedConfig, IsCompressedTensors) {
  const nlohmann::json config =
      PackedConfig({{{.bits = 4, .group_size = 128, .zero_points = true}, {"re:.*\\.q_proj$"}},
                    {{.bits = 8, .group_size = 32}, {"model.embed_tokens"}}},
                   {"lm_head"});
  EXPECT_EQ(config["quant_method"], "compressed-tensors");
  EXPECT_EQ(config["format"], "pack-quantized");
  EXPECT_EQ(config["quantization_status"], "compressed");
  EXPECT_EQ(config["ignore"], nlohmann::json({"lm_head"}));
  const nlohmann::json& first = config["config_groups"]["group_0"];
  EXPECT_EQ(first["targets"], nlohmann::json({"re:.*\\.q_proj$"}));
  EXPECT_EQ(first["weights"]["num_bits"], 4);
  EXPECT_EQ(first["weights"]["symmetric"], false);
  EXPECT_EQ(first["weights"]["strategy"], "group");
  EXPECT_EQ(first["weights"]["group_size"], 128);
  EXPECT_EQ(config["config_groups"]["group_1"]["weights"]["symmetric"], true);
}

}  // namespace
}  // namespace tandem::quantize
