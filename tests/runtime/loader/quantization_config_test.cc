#include "runtime/loader/quantization_config.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::loader {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

constexpr char kGate[] = "model.layers.3.mlp.gate_proj";
constexpr char kQuery[] = "model.layers.3.self_attn.q_proj";

absl::StatusOr<QuantizationConfig> Parse(const Json& object) {
  return QuantizationConfig::Parse("config.json", "quantization_config", object);
}

Json Gptq() { return {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}}; }

Json CompressedTensors(const Json& weights = {{"num_bits", 4},
                                              {"type", "int"},
                                              {"symmetric", true},
                                              {"strategy", "group"},
                                              {"group_size", 128}}) {
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"ignore", {"lm_head"}},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
}

TEST(QuantizationConfig, Gptq) {
  Json object = Gptq();
  object["desc_act"] = true;
  object["sym"] = false;
  object["dynamic"] = {{"-:.*\\.q_proj", Json::object()},
                       {"+:.*gate", {{"bits", 8}, {"group_size", -1}, {"sym", true}}}};
  const auto config = Parse(object);
  ASSERT_TRUE(config.ok()) << config.status();
  const QuantizedScheme* up = config->SchemeOf("model.layers.3.mlp.up_proj", ModuleClass::kLinear);
  ASSERT_NE(up, nullptr);
  EXPECT_EQ(up->layout, QuantizedLayout::kGptq);
  EXPECT_EQ(up->bits, 4);
  EXPECT_EQ(up->group_size, 128);
  EXPECT_FALSE(up->symmetric);
  EXPECT_TRUE(up->act_order);
  EXPECT_TRUE(up->zeros_less_one);
  const QuantizedScheme* gate = config->SchemeOf(kGate, ModuleClass::kLinear);
  ASSERT_NE(gate, nullptr);
  EXPECT_EQ(gate->bits, 8);
  EXPECT_EQ(gate->group_size, 0);
  EXPECT_FALSE(gate->act_order);  // one group a row has no order
  EXPECT_EQ(config->SchemeOf(kQuery, ModuleClass::kLinear), nullptr);
  EXPECT_EQ(config->SchemeOf("lm_head", ModuleClass::kLinear), nullptr);
  EXPECT_EQ(config->SchemeOf("model.embed_tokens", ModuleClass::kEmbedding), nullptr);

  object["lm_head"] = true;
  object["checkpoint_format"] = "gptq_v2";
  const auto second = Parse(object);
  ASSERT_NE(second->SchemeOf("lm_head", ModuleClass::kLinear), nullptr);
  EXPECT_FALSE(second->SchemeOf("lm_head", ModuleClass::kLinear)->zeros_less_one);

  object = Gptq();
  object["modules_in_block_to_quantize"] = {{"mlp.gate_proj"}, {"mlp.up_proj"}};
  const auto some = Parse(object);
  EXPECT_NE(some->SchemeOf(kGate, ModuleClass::kLinear), nullptr);
  EXPECT_EQ(some->SchemeOf(kQuery, ModuleClass::kLinear), nullptr);
}

TEST(QuantizationConfig, AwqAndFp8) {
  const auto awq = Parse({{"quant_method", "awq"},
                          {"w_bit", 4},
                          {"q_group_size", 64},
                          {"version", "GEMM"},
                          {"modules_to_not_convert", {"self_attn"}}});
  ASSERT_TRUE(awq.ok()) << awq.status();
  EXPECT_EQ(awq->SchemeOf(kQuery, ModuleClass::kLinear), nullptr);
  ASSERT_NE(awq->SchemeOf(kGate, ModuleClass::kLinear), nullptr);
  EXPECT_EQ(awq->SchemeOf(kGate, ModuleClass::kLinear)->group_size, 64);
  EXPECT_FALSE(awq->SchemeOf(kGate, ModuleClass::kLinear)->symmetric);

  const auto fp8 = Parse({{"quant_method", "fp8"}, {"weight_block_size", {128, 64}}});
  ASSERT_TRUE(fp8.ok()) << fp8.status();
  const QuantizedScheme* scheme = fp8->SchemeOf(kGate, ModuleClass::kLinear);
  ASSERT_NE(scheme, nullptr);
  EXPECT_EQ(scheme->block_rows, 128);
  EXPECT_EQ(scheme->group_size, 64);
  EXPECT_TRUE(fp8->has_kv_scales());
}

TEST(QuantizationConfig, CompressedTensors) {
  Json object = CompressedTensors();
  object["ignore"] = {"lm_head", "re:.*layers\\.3\\.mlp.*"};
  object["kv_cache_scheme"] = {{"num_bits", 8}};
  Json& groups = object["config_groups"];
  groups["a"] = {{"targets", {"re:.*q_proj"}},
                 {"format", "int-quantized"},
                 {"weights", {{"num_bits", 8}, {"strategy", "channel"}, {"actorder", "group"}}}};
  groups["b"] = {{"targets", {kQuery}},
                 {"format", "float-quantized"},
                 {"weights",
                  {{"num_bits", 8},
                   {"type", "float"},
                   {"strategy", "block"},
                   {"block_structure", {128, 128}}}}};
  groups["c"] = {{"targets", {"Embedding"}}, {"weights", {{"num_bits", 8}, {"group_size", 32}}}};
  const auto config = Parse(object);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->warnings().size(), 1u);
  EXPECT_TRUE(config->has_kv_scales());
  EXPECT_EQ(config->SchemeOf(kGate, ModuleClass::kLinear), nullptr);
  // A name counts before an expression, that before a class.
  const auto layout = [&](const char* module, ModuleClass kind = ModuleClass::kLinear) {
    return config->SchemeOf(module, kind)->layout;
  };
  EXPECT_EQ(layout(kQuery), QuantizedLayout::kFloat8);
  EXPECT_EQ(layout("model.layers.4.self_attn.q_proj"), QuantizedLayout::kBytes);
  EXPECT_EQ(layout("model.layers.4.mlp.gate_proj"), QuantizedLayout::kPacked);
  EXPECT_EQ(layout("model.embed_tokens", ModuleClass::kEmbedding), QuantizedLayout::kPacked);
  const QuantizedScheme* channel =
      config->SchemeOf("model.layers.4.self_attn.q_proj", ModuleClass::kLinear);
  EXPECT_EQ(channel->group_size, 0);
  EXPECT_FALSE(channel->act_order);
}

// As the packages that wrote them, which keep the order of the file.
TEST(QuantizationConfig, FirstPatternInTheFileCounts) {
  const auto read = [](const std::string& quantization) {
    const std::string text = "{\"quantization_config\": " + quantization + "}";
    const auto config = QuantizationConfig::Parse("config.json", "quantization_config",
                                                  Json::parse(text)["quantization_config"], text);
    EXPECT_TRUE(config.ok()) << config.status();
    return *config;
  };
  const QuantizationConfig gptq = read(R"({"quant_method": "gptq", "bits": 4, "group_size": 128,
      "dynamic": {".*down_proj": {"bits": 8}, "+:.*": {"group_size": 64}}})");
  const QuantizedScheme* down = gptq.SchemeOf("model.layers.3.mlp.down_proj", ModuleClass::kLinear);
  ASSERT_NE(down, nullptr);
  EXPECT_EQ(down->bits, 8);
  EXPECT_EQ(down->group_size, 128);
  const QuantizedScheme* gate = gptq.SchemeOf(kGate, ModuleClass::kLinear);
  ASSERT_NE(gate, nullptr);
  EXPECT_EQ(gate->bits, 4);
  EXPECT_EQ(gate->group_size, 64);

  const QuantizationConfig groups = read(R"({"quant_method": "compressed-tensors",
      "format": "pack-quantized", "config_groups": {
        "group_2": {"targets": ["re:.*gate_proj"], "weights": {"num_bits": 8, "group_size": 64}},
        "group_10": {"targets": ["re:.*_proj"], "weights": {"num_bits": 4, "group_size": 32}}}})");
  EXPECT_EQ(groups.SchemeOf(kGate, ModuleClass::kLinear)->bits, 8);
  EXPECT_EQ(groups.SchemeOf(kQuery, ModuleClass::kLinear)->bits, 4);
}

TEST(QuantizationConfig, RefusesByName) {
  const auto with = [](Json object, const char* field, const Json& value) {
    object[field] = value;
    return object;
  };
  const auto weights = [](const char* field, const Json& value) {
    Json args = CompressedTensors()["config_groups"]["group_0"]["weights"];
    args[field] = value;
    return CompressedTensors(args);
  };
  const Json awq = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}};
  const Json fp8 = {{"quant_method", "fp8"}};
  const std::vector<std::pair<Json, std::string>> cases = {
      {{{"quant_method", "bitsandbytes"}}, "quant_method: found \"bitsandbytes\", expected gptq"},
      {{{"quant_method", 3}}, "quant_method: found 3, expected a string"},
      {with(Gptq(), "bits", 3), "bits: found 3, expected 4 or 8"},
      {with(Gptq(), "group_size", 0), "group_size: found 0, expected -1"},
      {with(Gptq(), "checkpoint_format", "marlin"), "checkpoint_format: found \"marlin\""},
      {with(Gptq(), "is_marlin_format", true), "is_marlin_format: found true"},
      {with(Gptq(), "pack_dtype", "int8"), "pack_dtype: found \"int8\", expected int32"},
      {with(Gptq(), "dynamic", {{"+:(", Json::object()}}), "dynamic: found"},
      {with(Gptq(), "dynamic", {{"+:x", {{"bits", 2}}}}),
       "dynamic.\"+:x\".bits: found 2, expected 4 or 8"},
      {with(Gptq(), "dynamic", 3), "dynamic: found 3, expected an object"},
      {with(Gptq(), "modules_in_block_to_quantize", {3}), "modules_in_block_to_quantize: found"},
      {with(awq, "bits", 8), "bits: found 8, expected 4"},
      {with(awq, "version", "gemv"), "version: found \"gemv\", expected gemm"},
      {with(awq, "backend", "llm-awq"), "backend: found \"llm-awq\""},
      {with(awq, "modules_to_not_convert", "x"), "modules_to_not_convert: found \"x\""},
      {with(fp8, "fmt", "e5m2"), "fmt: found \"e5m2\", expected e4m3"},
      {with(fp8, "activation_scheme", "odd"), "activation_scheme: found \"odd\""},
      {with(fp8, "weight_block_size", {128}), "weight_block_size: found [128], expected [rows"},
      {with(fp8, "weight_block_size", {0, 1}), "weight_block_size: found [0,1]"},
      {with(CompressedTensors(), "quantization_status", "frozen"), "quantization_status: found"},
      {with(CompressedTensors(), "sparsity_config", {{"format", "sparse-24-bitmask"}}),
       "sparsity_config: found"},
      {with(CompressedTensors(), "transform_config", {{"config_groups", {{"a", 1}}}}),
       "transform_config: found"},
      {with(CompressedTensors(), "format", "nvfp4-pack-quantized"),
       "format: found \"nvfp4-pack-quantized\", expected pack-quantized or int-quantized"},
      {with(CompressedTensors(), "config_groups", {{"W4A16", {"Linear"}}}), "config_groups: found"},
      {with(CompressedTensors(), "config_groups", Json::array()), "config_groups: found []"},
      {with(CompressedTensors(), "ignore", {"re:["}), "ignore: found"},
      {weights("num_bits", 3), "group_0.weights.num_bits: found 3, expected 4 or 8"},
      {weights("type", "log"), "weights.type: found \"log\""},
      {weights("strategy", "tensor_group"), "weights.strategy: found \"tensor_group\""},
      {weights("strategy", "block"), "weights.strategy: found \"block\""},
      {weights("group_size", nullptr), "weights.group_size: found nothing"},
      {weights("actorder", "odd"), "weights.actorder: found \"odd\""},
      {weights("symmetric", 1), "weights.symmetric: found 1, expected true or false"}};
  for (const auto& [object, expected] : cases) {
    const auto config = Parse(object);
    ASSERT_FALSE(config.ok()) << object;
    const std::string message(config.status().message());
    EXPECT_THAT(message, HasSubstr("config.json: quantization_config."));
    EXPECT_THAT(message, HasSubstr(expected));
    EXPECT_THAT(message, Not(HasSubstr("\n")));
  }
}

// Whether such an expression matches is unknown; taking it for "no" would read the matrix wrongly.
TEST(QuantizationConfig, AnExpressionThatExceedsTheMatchLimitIsAnError) {
  Json object = CompressedTensors();
  object["ignore"] = {"re:(?:[a-z]+[._0-9]*)+[XY]"};
  const auto config = Parse(object);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto scheme = config->FindScheme(kGate, ModuleClass::kLinear);
  ASSERT_EQ(scheme.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(scheme.status().message());
  EXPECT_THAT(message, HasSubstr("config.json: quantization_config: found the expression \""));
  EXPECT_THAT(message, HasSubstr("match limit exceeded"));
  EXPECT_THAT(message, HasSubstr(kGate));
  // A short name takes few steps.
  const auto fits = config->FindScheme("m", ModuleClass::kLinear);
  ASSERT_TRUE(fits.ok()) << fits.status();
  EXPECT_NE(*fits, nullptr);
}

}  // namespace
}  // namespace tandem::loader
