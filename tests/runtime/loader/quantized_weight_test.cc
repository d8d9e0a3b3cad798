// Quantized matrices against what the packages that wrote them mean by them
// (tests/golden/make_quantized_golden.py), and what is refused.
#include "runtime/loader/quantized_weight.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/math.h"
#include "nlohmann/json.hpp"
#include "runtime/loader/hf_config.h"
#include "tests/runtime/loader/temp_dir.h"
#include "tests/support/source_path.h"

namespace tandem::loader {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

// 64-bit FNV-1a over words.
template <typename T>
std::string Digest(const std::vector<T>& words) {
  uint64_t digest = 0xcbf29ce484222325;
  for (const T word : words) {
    uint64_t bits = 0;
    std::memcpy(&bits, &word, sizeof(word));
    digest = (digest ^ bits) * 0x100000001b3;
  }
  return absl::StrFormat("%016x", digest);
}

template <typename T>
std::vector<T> Values(const QuantizedWeight& weight, const Block& block, kernels::DType dtype) {
  std::vector<T> values(block.rows() * block.columns());
  const absl::Status status = weight.ReadValues(
      block, dtype, reinterpret_cast<std::byte*>(values.data()), block.columns() * sizeof(T));
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

bool IsFloat8(const QuantizedWeight& weight) {
  return weight.format() && weight.format()->code_type == kernels::CodeType::kFloat8;
}

std::vector<float> FromCodes(const QuantizedWeight& weight, const Block& block) {
  const kernels::QuantFormat& format = *weight.format();
  const int64_t first = block.column_begin / format.group_size;
  const int64_t groups = (block.column_end + format.group_size - 1) / format.group_size - first;
  std::vector<int8_t> codes(block.rows() * block.columns());
  std::vector<float> scales(block.rows() * groups);
  std::vector<uint8_t> zeros(block.rows() * groups, format.bits == 4 ? 8 : 0);
  const absl::Status status = weight.ReadCodes(
      block, {codes.data(), scales.data(), format.zero_points ? zeros.data() : nullptr});
  EXPECT_TRUE(status.ok()) << status;
  std::vector<float> values;
  for (int64_t r = 0; r < block.rows(); ++r) {
    for (int64_t k = 0; k < block.columns(); ++k) {
      const int64_t at = r * groups + (block.column_begin + k) / format.group_size - first;
      const int8_t code = codes[r * block.columns() + k];
      const float value = IsFloat8(weight) ? kernels::E4m3ToFloat(static_cast<uint8_t>(code))
                                           : static_cast<float>(code - zeros[at]);
      values.push_back(value * scales[at]);
    }
  }
  return values;
}

std::vector<std::string> Cases() {
  std::vector<std::string> names;
  for (const auto& entry :
       std::filesystem::directory_iterator(SourcePath("tests/golden/quantized"))) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The shape of a matrix of the golden models.
std::pair<int64_t, int64_t> ShapeOf(const ModelConfig& c, const std::string& module) {
  const std::string part = module.substr(module.rfind('.') + 1);
  const int64_t q = c.num_heads * c.head_dim;
  const int64_t kv = c.num_kv_heads * c.head_dim;
  if (part == "q_proj") return {q, c.hidden_size};
  if (part == "k_proj" || part == "v_proj") return {kv, c.hidden_size};
  if (part == "o_proj") return {c.hidden_size, q};
  if (part == "down_proj") return {c.hidden_size, c.intermediate_size};
  if (part == "gate_proj" || part == "up_proj") return {c.intermediate_size, c.hidden_size};
  return {c.vocab_size, c.hidden_size};
}

class QuantizedGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizedGolden, ReadsWhatItsPackageMeans) {
  const std::string path = SourcePath("tests/golden/quantized/" + GetParam());
  const Json golden = Json::parse(std::ifstream(path + "/golden.json"));
  const auto folder = ModelFolder::Open(path);
  const auto config = ReadConfig(*folder);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto checkpoint = *Checkpoint::Open(*folder);
  for (auto it = golden["modules"].begin(); it != golden["modules"].end(); ++it) {
    const std::string& module = it.key();
    SCOPED_TRACE(module);
    const auto kind =
        module.find("embed") == std::string::npos ? ModuleClass::kLinear : ModuleClass::kEmbedding;
    const QuantizedScheme* scheme = config->quantization->SchemeOf(module, kind);
    ASSERT_NE(scheme, nullptr);
    const auto [rows, columns] = ShapeOf(*config, module);
    const auto taken = QuantizedWeight::Take(*checkpoint, *scheme, module, rows, columns);
    ASSERT_TRUE(taken.ok()) << taken.status();
    QuantizedWeight& weight = **taken;
    const Block all = {0, rows, 0, columns};
    ASSERT_TRUE(weight.Prepare(all).ok());
    const auto values = Values<float>(weight, all, kernels::DType::kF32);
    EXPECT_EQ(Digest(values), it->at("float32"));
    EXPECT_EQ(Digest(Values<uint16_t>(weight, all, kernels::DType::kBF16)), it->at("bfloat16"));
    // Floats of 8 bits are as well, where they are not multiplied.
    EXPECT_EQ(!weight.format().has_value() || IsFloat8(weight), it->at("as_bf16"));
    if (weight.format()) EXPECT_EQ(FromCodes(weight, all), values);

    // Parts, cut where neither words nor groups end, prepared by themselves.
    for (const Block& block : {Block{0, 1, 0, columns}, Block{3, 21, 8, 56}, Block{5, 29, 5, 6},
                               Block{rows - 7, rows, columns - 17, columns}, Block{4, 4, 0, 9}}) {
      std::vector<float> expected;
      for (int64_t r = block.row_begin; r < block.row_end; ++r) {
        for (int64_t k = block.column_begin; k < block.column_end; ++k) {
          expected.push_back(values[r * columns + k]);
        }
      }
      const absl::Status prepared = weight.Prepare(block);
      ASSERT_TRUE(prepared.ok()) << prepared;
      EXPECT_EQ(Values<float>(weight, block, kernels::DType::kF32), expected);
      if (weight.format()) EXPECT_EQ(FromCodes(weight, block), expected);
    }
    // A piece of what was prepared.
    ASSERT_TRUE(weight.Prepare({2, 31, 8, 64}).ok());
    const Block piece = {9, 30, 24, 41};
    const auto got = Values<float>(weight, piece, kernels::DType::kF32);
    for (int64_t r = 0; r < piece.rows(); ++r) {
      for (int64_t k = 0; k < piece.columns(); ++k) {
        ASSERT_EQ(got[r * piece.columns() + k], values[(9 + r) * columns + 24 + k]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizedGolden, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param; });

// A tensor for a file made by hand.
struct RawTensor {
  std::string name, type;
  std::vector<int64_t> shape;
  std::string bytes;
};

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string FileOf(const std::vector<RawTensor>& tensors) {
  Json header;
  std::string data;
  for (const RawTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.type},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  return Safetensors(header.dump(), data);
}

// What taking and reading module "m" [8, 8] of such a file says.
std::string Refusal(const QuantizedScheme& scheme, const std::vector<RawTensor>& tensors) {
  TempDir dir;
  dir.Write("model.safetensors", FileOf(tensors));
  const auto checkpoint = Checkpoint::Open(*ModelFolder::Open(dir.path()));
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto weight = QuantizedWeight::Take(**checkpoint, scheme, "m", 8, 8);
  if (!weight.ok()) return std::string(weight.status().message());
  absl::Status status = (*weight)->Prepare({0, 8, 0, 8});
  if (status.ok()) {
    std::vector<float> values(64);
    status = (*weight)->ReadValues({0, 8, 0, 8}, kernels::DType::kF32,
                                   reinterpret_cast<std::byte*>(values.data()), 32);
  }
  return status.ok() ? "read" : std::string(status.message());
}

// Scales of 1.0 in F16, with one other.
std::string Scales(size_t count, uint16_t last = 0x3c00) {
  std::vector<uint16_t> scales(count, 0x3c00);
  scales.back() = last;
  return Bytes(scales);
}

TEST(QuantizedWeight, RefusesDamage) {
  const QuantizedScheme gptq = {
      .layout = QuantizedLayout::kGptq, .symmetric = false, .group_size = 4};
  const RawTensor qweight = {"m.qweight", "I32", {1, 8}, Bytes(std::vector<int32_t>(8))};
  const RawTensor qzeros = {"m.qzeros", "I32", {2, 1}, Bytes(std::vector<int32_t>(2))};
  const RawTensor scales = {"m.scales", "F16", {2, 8}, Scales(16)};
  const auto index = [](std::vector<int32_t> groups) {
    return RawTensor{"m.g_idx", "I32", {8}, Bytes(groups)};
  };
  EXPECT_EQ(Refusal(gptq, {qweight, qzeros, scales, index({0, 0, 0, 0, 1, 1, 1, 1})}), "read");
  EXPECT_THAT(Refusal(gptq, {qweight, qzeros, scales, index({0, 1, 0, 0, 1, 1, 1, 1})}),
              HasSubstr("\"m.g_idx\": found 1 at column 1, expected 0"));
  QuantizedScheme act_order = gptq;
  act_order.act_order = true;
  EXPECT_EQ(Refusal(act_order, {qweight, qzeros, scales, index({0, 1, 0, 0, 1, 1, 0, 1})}), "read");
  EXPECT_THAT(Refusal(act_order, {qweight, qzeros, scales, index({0, 1, 0, 2, 1, 1, 0, 1})}),
              HasSubstr("\"m.g_idx\": found 2 at column 3, expected 0 to 1"));
  EXPECT_THAT(Refusal(act_order, {qweight, qzeros, scales, index({0, 1, 0, -1, 1, 1, 0, 1})}),
              HasSubstr("found -1 at column 3"));
  EXPECT_THAT(Refusal(act_order, {qweight, qzeros, scales}), HasSubstr("m.g_idx"));
  EXPECT_THAT(Refusal(gptq, {qweight, scales}), HasSubstr("m.qzeros"));
  EXPECT_THAT(Refusal(gptq, {qweight, qzeros, {"m.scales", "F16", {2, 7}, Scales(14)}}),
              HasSubstr("\"m.scales\" shape: found [2, 7], expected [2, 8]"));
  EXPECT_THAT(Refusal(gptq, {qweight, qzeros, {"m.scales", "F16", {2, 8}, Scales(16, 0x7e00)}}),
              HasSubstr("\"m.scales\": found nan at row 7, group 1, expected a number"));
  EXPECT_THAT(
      Refusal(gptq, {{"m.qweight", "I16", {1, 8}, Bytes(std::vector<int16_t>(8))}, qzeros, scales}),
      HasSubstr("\"m.qweight\" dtype: found I16, expected I32 or U32"));
  QuantizedScheme symmetric = gptq;
  symmetric.symmetric = true;
  EXPECT_THAT(Refusal(symmetric, {qweight, qzeros, scales}),
              HasSubstr("\"m.qzeros\": found zero point 0 at row 0, expected 8"));

  const QuantizedScheme packed = {.layout = QuantizedLayout::kPacked, .group_size = 4};
  const RawTensor weight_packed = {
      "m.weight_packed", "I32", {8, 1}, Bytes(std::vector<int32_t>(8))};
  const RawTensor weight_scale = {"m.weight_scale", "F16", {8, 2}, Scales(16)};
  const auto shape = [](std::vector<int64_t> lengths) {
    return RawTensor{"m.weight_shape", "I64", {2}, Bytes(lengths)};
  };
  EXPECT_EQ(Refusal(packed, {weight_packed, weight_scale, shape({8, 8})}), "read");
  EXPECT_THAT(Refusal(packed, {weight_packed, weight_scale, shape({8, 9})}),
              HasSubstr("\"m.weight_shape\": found [8, 9], expected [8, 8]"));

  const QuantizedScheme bytes4 = {.layout = QuantizedLayout::kBytes, .group_size = 4};
  EXPECT_THAT(Refusal(bytes4, {{"m.weight", "I8", {8, 8}, std::string(64, 8)}, weight_scale}),
              HasSubstr("\"m.weight\": found code 8 at row 0, expected -8 to 7"));

  const QuantizedScheme fp8 = {.layout = QuantizedLayout::kFloat8, .bits = 8, .block_rows = 0};
  const RawTensor one = {"m.weight_scale", "F16", {}, Scales(1)};
  EXPECT_EQ(Refusal(fp8, {{"m.weight", "F8_E4M3", {8, 8}, std::string(64, 0x7e)}, one}), "read");
  EXPECT_THAT(Refusal(fp8, {{"m.weight", "F8_E4M3", {8, 8}, std::string(64, 0x7f)}, one}),
              HasSubstr("\"m.weight\": found no number at row 0, column 0"));
}

// One scale, or zero point, of a whole matrix: whatever the file has beside it is not read.
TEST(QuantizedWeight, OneOfAMatrixIsOne) {
  const QuantizedScheme scheme = {
      .layout = QuantizedLayout::kBytes, .bits = 8, .symmetric = false, .block_rows = 0};
  const RawTensor weight = {"m.weight", "I8", {8, 8}, std::string(64, 5)};
  const auto scale = [](std::vector<int64_t> shape, size_t count) {
    return RawTensor{"m.weight_scale", "F32", std::move(shape), Bytes(std::vector<float>(count))};
  };
  const auto zero = [](std::vector<int64_t> shape, size_t count) {
    return RawTensor{"m.weight_zero_point", "I8", std::move(shape), std::string(count, 0)};
  };
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {1}, {1, 1}}) {
    EXPECT_EQ(Refusal(scheme, {weight, scale(shape, 1), zero(shape, 1)}), "read");
  }
  EXPECT_THAT(Refusal(scheme, {weight, scale({1, 1000}, 1000), zero({1}, 1)}),
              HasSubstr("\"m.weight_scale\" shape: found [1, 1000], expected [1] by"));
  EXPECT_THAT(Refusal(scheme, {weight, scale({1}, 1), zero({1, 1000}, 1000)}),
              HasSubstr("\"m.weight_zero_point\" shape: found [1, 1000], expected [1] by"));
  EXPECT_THAT(Refusal(scheme, {weight, scale({1, 0}, 0), zero({1}, 1)}),
              HasSubstr("\"m.weight_scale\" shape: found [1, 0], expected [1] by"));
}

TEST(QuantizedWeight, ChecksRowsAhead) {
  const auto check = [](const QuantizedScheme& scheme, const std::vector<RawTensor>& tensors) {
    TempDir dir;
    dir.Write("model.safetensors", FileOf(tensors));
    const auto checkpoint = *Checkpoint::Open(*ModelFolder::Open(dir.path()));
    const auto weight = QuantizedWeight::Take(*checkpoint, scheme, "m", 1500, 8);
    EXPECT_TRUE(weight.ok()) << weight.status();
    EXPECT_TRUE((*weight)->CheckRows(0, 1499).ok());
    return std::string((*weight)->CheckRows(700, 1500).message());
  };
  const QuantizedScheme codes = {.layout = QuantizedLayout::kBytes, .bits = 8};
  const RawTensor weight = {"m.weight", "I8", {1500, 8}, std::string(12000, 5)};
  const auto scales = [](float last) {
    std::vector<float> values(1500, 1);
    values.back() = last;
    return RawTensor{"m.weight_scale", "F32", {1500, 1}, Bytes(values)};
  };
  EXPECT_EQ(check(codes, {weight, scales(-2)}), "");
  EXPECT_THAT(check(codes, {weight, scales(INFINITY)}),
              HasSubstr("\"m.weight_scale\": found inf at row 1499, group 0, expected a number"));
  EXPECT_THAT(check(codes, {weight, scales(3e38f)}),
              HasSubstr("found 3e+38 at row 1499, group 0, expected a number that codes leave"));
  QuantizedScheme narrow = codes;
  narrow.bits = 4;
  std::string bytes(12000, 5);
  bytes.back() = 9;
  EXPECT_THAT(check(narrow, {{"m.weight", "I8", {1500, 8}, bytes}, scales(1)}),
              HasSubstr("\"m.weight\": found code 9 at row 1499, expected -8 to 7"));
  bytes.back() = 0x7f;
  QuantizedScheme fp8 = codes;
  fp8.layout = QuantizedLayout::kFloat8;
  EXPECT_THAT(check(fp8, {{"m.weight", "F8_E4M3", {1500, 8}, bytes}, scales(1)}),
              HasSubstr("\"m.weight\": found no number at row 1499, column 7"));
}

// Every byte of E4M3: the format's definition by its bits.
TEST(QuantizedWeight, FloatsOfEightBits) {
  TempDir dir;
  std::string bytes(256, '\0');
  for (int i = 0; i < 256; ++i) bytes[i] = static_cast<char>(i % 128 == 127 ? 0 : i);
  dir.Write("model.safetensors", FileOf({{"m.weight", "F8_E4M3", {16, 16}, bytes},
                                         {"m.weight_scale", "F16", {}, Scales(1)}}));
  const auto checkpoint = *Checkpoint::Open(*ModelFolder::Open(dir.path()));
  const QuantizedScheme fp8 = {.layout = QuantizedLayout::kFloat8, .bits = 8, .block_rows = 0};
  const auto weight = *QuantizedWeight::Take(*checkpoint, fp8, "m", 16, 16);
  ASSERT_TRUE(weight->Prepare({0, 16, 0, 16}).ok());
  const auto values = Values<float>(*weight, {0, 16, 0, 16}, kernels::DType::kF32);
  for (int i = 0; i < 256; ++i) {
    if (i % 128 == 127) continue;
    const int exponent = i >> 3 & 15;
    double expected = exponent == 0 ? (i & 7) / 8.0 / 64 : (1 + (i & 7) / 8.0);
    for (int e = exponent; e > 7; --e) expected *= 2;
    for (int e = exponent; exponent != 0 && e < 7; ++e) expected /= 2;
    EXPECT_EQ(values[i], i < 128 ? expected : -expected) << i;
  }
}

}  // namespace
}  // namespace tandem::loader
