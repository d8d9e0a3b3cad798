#include "runtime/loader/hf_config.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/loader/generation_config.h"
#include "tests/runtime/loader/temp_dir.h"

namespace tandem::loader {
namespace {

using Json = nlohmann::json;
using Kind = RopeConfig::Kind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// The models' published numbers.
constexpr char kLlama31[] = R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,
  "attention_dropout":0.0,"bos_token_id":128000,"eos_token_id":[128001,128008,128009],
  "hidden_act":"silu","hidden_size":4096,"initializer_range":0.02,"intermediate_size":14336,
  "max_position_embeddings":131072,"mlp_bias":false,"model_type":"llama",
  "num_attention_heads":32,"num_hidden_layers":32,"num_key_value_heads":8,"pretraining_tp":1,
  "rms_norm_eps":1e-05,"rope_scaling":{"factor":8.0,"low_freq_factor":1.0,
  "high_freq_factor":4.0,"original_max_position_embeddings":8192,"rope_type":"llama3"},
  "rope_theta":500000.0,"tie_word_embeddings":false,"torch_dtype":"bfloat16",
  "transformers_version":"4.42.3","use_cache":true,"vocab_size":128256})";
constexpr char kQwen3[] = R"({"architectures":["Qwen3ForCausalLM"],"attention_bias":false,
  "attention_dropout":0.0,"bos_token_id":151643,"eos_token_id":151645,"head_dim":128,
  "hidden_act":"silu","hidden_size":4096,"initializer_range":0.02,"intermediate_size":12288,
  "max_position_embeddings":40960,"max_window_layers":36,"model_type":"qwen3",
  "num_attention_heads":32,"num_hidden_layers":36,"num_key_value_heads":8,"rms_norm_eps":1e-06,
  "rope_scaling":null,"rope_theta":1000000,"sliding_window":null,"tie_word_embeddings":false,
  "torch_dtype":"bfloat16","transformers_version":"4.51.0","use_cache":true,
  "use_sliding_window":false,"vocab_size":151936})";

Json Changed(const char* base, const Json& changes) {
  Json config = Json::parse(base);
  config.merge_patch(changes);  // null removes
  return config;
}

ModelConfig Good(const Json& config) {
  const auto parsed = ParseConfig(config.dump(), "config.json");
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *parsed : ModelConfig();
}

// The message, which must be one line of the agreed form.
std::string Refusal(const std::string& text) {
  const auto parsed = ParseConfig(text, "DIR/config.json");
  if (parsed.ok()) return "accepted";
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, ::testing::StartsWith("DIR/config.json: "));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  return message;
}

TEST(HfConfig, Llama31) {
  const ModelConfig c = Good(Json::parse(kLlama31));
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.hidden_size, 4096);
  EXPECT_EQ(c.intermediate_size, 14336);
  EXPECT_EQ(c.num_layers, 32);
  EXPECT_EQ(c.num_heads, 32);
  EXPECT_EQ(c.num_kv_heads, 8);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.vocab_size, 128256);
  EXPECT_EQ(c.max_position_embeddings, 131072);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);
  EXPECT_EQ(c.rope.kind, Kind::kLlama3);
  EXPECT_EQ(c.rope.theta, 500000);
  EXPECT_EQ(c.rope.factor, 8);
  EXPECT_EQ(c.rope.original_max_position_embeddings, 8192);
  EXPECT_EQ(c.rope.attention_factor, 1);
  EXPECT_FALSE(c.tie_word_embeddings || c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm);
  EXPECT_EQ(c.dtype, kernels::DType::kBF16);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(128001, 128008, 128009));
  EXPECT_EQ(c.bos_token_id, 128000);
}

TEST(HfConfig, PatternsCountInTheOrderOfTheFile) {
  std::string text = kQwen3;
  text.insert(1, R"("quantization_config":{"quant_method":"gptq","bits":4,"group_size":128,
    "dynamic":{".*down_proj":{"bits":8},"+:.*":{"group_size":64}}},)");
  const auto parsed = ParseConfig(text, "config.json");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const QuantizedScheme* down =
      parsed->quantization->SchemeOf("model.layers.0.mlp.down_proj", ModuleClass::kLinear);
  ASSERT_NE(down, nullptr);
  EXPECT_EQ(down->bits, 8);
}

TEST(HfConfig, R1DistillLlama) {
  const ModelConfig c = Good(Changed(kLlama31, {{"eos_token_id", 128001}}));
  EXPECT_THAT(c.eos_token_ids, ElementsAre(128001));
  EXPECT_EQ(c.rope.kind, Kind::kLlama3);
}

TEST(HfConfig, Qwen3) {
  const ModelConfig c = Good(Json::parse(kQwen3));
  EXPECT_EQ(c.architecture, "Qwen3ForCausalLM");
  EXPECT_EQ(c.intermediate_size, 12288);
  EXPECT_EQ(c.num_layers, 36);
  EXPECT_EQ(c.rope.kind, Kind::kDefault);
  EXPECT_EQ(c.rope.theta, 1e6);
  EXPECT_TRUE(c.qk_norm);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(151645));
  // Qwen3-4B: heads that do not add up to hidden_size, tied.
  const ModelConfig small = Good(
      Changed(kQwen3, {{"hidden_size", 2560}, {"head_dim", 128}, {"tie_word_embeddings", true}}));
  EXPECT_EQ(small.head_dim, 128);
  EXPECT_TRUE(small.tie_word_embeddings);
  EXPECT_EQ(Good(Changed(kQwen3, {{"hidden_size", 2560}, {"head_dim", nullptr}})).head_dim, 128);
}

TEST(HfConfig, R10528Qwen3) {
  const ModelConfig c = Good(Changed(kQwen3, {{"max_position_embeddings", 131072},
                                              {"rope_scaling",
                                               {{"attn_factor", 0.8782488562869419},
                                                {"factor", 4.0},
                                                {"original_max_position_embeddings", 32768},
                                                {"rope_type", "yarn"}}}}));
  EXPECT_EQ(c.rope.kind, Kind::kYarn);
  EXPECT_EQ(c.rope.factor, 4);
  EXPECT_EQ(c.rope.original_max_position_embeddings, 32768);
  EXPECT_NEAR(c.rope.attention_factor, 1.1386294361119891, 1e-15);
  EXPECT_TRUE(c.rope.truncate);
}

TEST(HfConfig, NewerSpellings) {
  Json config = Changed(kLlama31, {{"torch_dtype", nullptr},
                                   {"dtype", "float16"},
                                   {"rope_theta", nullptr},
                                   {"rope_scaling", nullptr}});
  config["rope_parameters"] = Json::parse(kLlama31)["rope_scaling"];
  config["rope_parameters"]["rope_theta"] = 500000.0;
  const ModelConfig c = Good(config);
  EXPECT_EQ(c.rope, Good(Json::parse(kLlama31)).rope);
  EXPECT_EQ(c.dtype, kernels::DType::kF16);
  // Both spellings at once, alike and not.
  Json both = config;
  both["rope_scaling"] = Json::parse(kLlama31)["rope_scaling"];
  EXPECT_EQ(Good(both).rope, c.rope);
  both["rope_scaling"]["factor"] = 9.0;
  EXPECT_THAT(Refusal(both.dump()), HasSubstr("rope_parameters: found"));
  both = config;
  both["rope_theta"] = 7.0;
  EXPECT_THAT(Refusal(both.dump()), HasSubstr("rope_parameters.rope_theta: found 500000"));
}

TEST(HfConfig, DefaultsAndVariants) {
  const ModelConfig c = Good(Changed(kLlama31, {{"num_key_value_heads", nullptr},
                                                {"rope_theta", nullptr},
                                                {"rope_scaling", nullptr},
                                                {"rms_norm_eps", nullptr},
                                                {"eos_token_id", nullptr},
                                                {"bos_token_id", nullptr},
                                                {"torch_dtype", nullptr},
                                                {"hidden_act", nullptr},
                                                {"attention_bias", true},
                                                {"mlp_bias", true},
                                                {"hidden_size", 4096.0}}));
  EXPECT_EQ(c.num_kv_heads, 32);
  EXPECT_EQ(c.rope, RopeConfig());
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_THAT(c.eos_token_ids, IsEmpty());
  EXPECT_EQ(c.bos_token_id, -1);
  EXPECT_TRUE(c.qkv_bias && c.o_bias && c.mlp_bias);
  EXPECT_FALSE(Good(Changed(kQwen3, {{"mlp_bias", true}})).mlp_bias);
  EXPECT_TRUE(Good(Changed(kQwen3, {{"attention_bias", true}})).o_bias);
  // A window that is switched off, and multipliers that do nothing.
  Good(Changed(kQwen3, {{"sliding_window", 4096},
                        {"num_experts", 0},
                        {"logits_scaling", 1.0},
                        {"partial_rotary_factor", 1},
                        {"use_qk_norm", false}}));
  Good(Changed(kLlama31, {{"sliding_window", 4096}, {"use_sliding_window", false}}));
  Good(Changed(kQwen3, {{"layer_types", std::vector<std::string>(36, "full_attention")}}));
  const RopeConfig linear =
      Good(Changed(kQwen3, {{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}})).rope;
  EXPECT_EQ(linear.kind, Kind::kLinear);
  EXPECT_EQ(linear.factor, 2);
  EXPECT_EQ(Good(Changed(kQwen3, {{"rope_scaling", {{"type", "default"}}}})).rope.kind,
            Kind::kDefault);
  const Json yarn = {{"type", "yarn"}, {"factor", 4.0}};
  EXPECT_EQ(Good(Changed(kQwen3, {{"rope_scaling", yarn}})).rope.original_max_position_embeddings,
            40960);
  const auto attention = [&](const Json& more) {
    Json config = Changed(kQwen3, {{"rope_scaling", yarn}});
    config["rope_scaling"].update(more);
    return Good(config).rope.attention_factor;
  };
  EXPECT_EQ(attention({{"attention_factor", 0.5}, {"mscale", 2.0}, {"mscale_all_dim", 1.0}}), 0.5);
  EXPECT_EQ(attention({{"factor", 1.0}}), 1);
  EXPECT_EQ(attention({{"mscale", 1.0}, {"mscale_all_dim", 1.0}}), 1);
  EXPECT_EQ(attention({{"mscale", 5.0}}), attention(Json::object()));
}

TEST(HfConfig, RefusesAbsurdNumbers) {
  const std::vector<Json> bad = {0,
                                 -1,
                                 1.9,
                                 "32",
                                 true,
                                 1e18,
                                 Json::array({1}),
                                 18446744073709551615ull,
                                 9223372036854775807ll};
  for (const char* field :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings"}) {
    for (const Json& value : bad) {
      EXPECT_THAT(Refusal(Changed(kQwen3, {{field, value}}).dump()),
                  HasSubstr(std::string(field) + ": found "))
          << value;
    }
  }
  for (const char* field : {"hidden_size", "intermediate_size", "num_hidden_layers",
                            "num_attention_heads", "vocab_size", "max_position_embeddings"}) {
    EXPECT_THAT(Refusal(Changed(kQwen3, {{field, nullptr}}).dump()),
                HasSubstr(std::string(field) + ": found nothing, expected an integer from 1"));
  }
}

TEST(HfConfig, RefusesWhatItCannotCompute) {
  // Changes to Llama-3.1-8B, and what the message must hold.
  const std::vector<std::pair<Json, const char*>> cases = {
      {{{"architectures", {"MixtralForCausalLM"}}},
       "architectures: found [\"MixtralForCausalLM\"], expected LlamaForCausalLM or "
       "Qwen3ForCausalLM"},
      {{{"architectures", nullptr}}, "architectures: found nothing"},
      {{{"architectures", "LlamaForCausalLM"}}, "architectures: found"},
      {{{"architectures", Json::array()}}, "architectures: found []"},
      {{{"model_type", "qwen3"}}, "model_type: found \"qwen3\", expected \"llama\""},
      {{{"num_key_value_heads", 5}}, "num_key_value_heads: found 5, expected a divisor of"},
      {{{"num_key_value_heads", 64}}, "num_key_value_heads: found 64, expected a divisor of"},
      {{{"head_dim", 127}}, "head_dim: found 127, expected an even"},
      {{{"hidden_size", 4100}}, "head_dim: found nothing"},
      {{{"hidden_size", 4128}}, "head_dim: found 129 (derived), expected an even"},
      {{{"hidden_act", "gelu"}}, "hidden_act: found \"gelu\", expected \"silu\""},
      {{{"hidden_act", 1}}, "hidden_act: found 1"},
      {{{"rms_norm_eps", -1e-5}}, "rms_norm_eps: found"},
      {{{"rms_norm_eps", "small"}}, "rms_norm_eps: found"},
      {{{"attention_bias", 1}}, "attention_bias: found 1, expected true or false"},
      {{{"tie_word_embeddings", "no"}}, "tie_word_embeddings: found"},
      {{{"torch_dtype", "float8_e4m3fn"}}, "torch_dtype: found \"float8_e4m3fn\""},
      {{{"eos_token_id", -1}}, "eos_token_id: found -1"},
      {{{"eos_token_id", {1, 2.5}}}, "eos_token_id: found [1,2.5]"},
      {{{"eos_token_id", "</s>"}}, "eos_token_id: found"},
      {{{"bos_token_id", 128256}}, "bos_token_id: found 128256"},
      {{{"quantization_config", {{"quant_method", "gptq"}, {"bits", 4}}}},
       "quantization_config.group_size: found nothing, expected an integer"},
      {{{"quantization_config", {{"bits", 4}}}},
       "quantization_config.quant_method: found nothing, expected gptq, awq"},
      {{{"compression_config", {{"quant_method", "bitsandbytes"}}}},
       "compression_config.quant_method: found \"bitsandbytes\", expected gptq, awq"},
      {{{"quantization_config", 4}}, "quantization_config: found 4, expected an object"},
      {{{"sliding_window", 4096}}, "sliding_window: found 4096"},
      {{{"use_sliding_window", true}}, "use_sliding_window: found true"},
      {{{"layer_types", std::vector<std::string>(32, "sliding_attention")}},
       "layer_types[0]: found \"sliding_attention\""},
      {{{"layer_types", {"full_attention"}}}, "layer_types: found"},
      {{{"pretraining_tp", 2}}, "pretraining_tp: found 2"},
      {{{"partial_rotary_factor", 0.5}}, "partial_rotary_factor: found 0.5"},
      {{{"num_experts", 8}}, "num_experts: found 8"},
      {{{"num_local_experts", 8}}, "num_local_experts: found 8"},
      {{{"logits_scaling", 8.0}}, "logits_scaling: found 8.0"},
      {{{"embedding_multiplier", 12.0}}, "embedding_multiplier: found 12.0"},
      {{{"attn_logit_softcapping", 50.0}}, "attn_logit_softcapping: found 50.0"},
      {{{"final_logit_softcapping", 30.0}}, "final_logit_softcapping: found 30.0"},
      {{{"rope_theta", 0}}, "rope_theta: found 0"},
      {{{"rope_theta", "1e4"}}, "rope_theta: found \"1e4\""},
      {{{"rope_scaling", "yarn"}}, "rope_scaling: found \"yarn\""},
      {{{"rope_scaling", {{"rope_type", "longrope"}}}}, "rope_scaling.rope_type: found"},
      {{{"rope_scaling", {{"rope_type", nullptr}}}}, "rope_scaling.rope_type: found nothing"},
      {{{"rope_scaling", {{"type", "yarn"}}}}, "rope_scaling.type: found \"yarn\", expected the"},
      {{{"rope_scaling", {{"factor", 0.5}}}}, "rope_scaling.factor: found 0.5"},
      {{{"rope_scaling", {{"factor", nullptr}}}}, "rope_scaling.factor: found nothing"},
      {{{"rope_scaling", {{"high_freq_factor", 1.0}}}}, "rope_scaling.high_freq_factor: found"},
      {{{"rope_scaling", {{"original_max_position_embeddings", nullptr}}}},
       "rope_scaling.original_max_position_embeddings: found nothing"},
      {{{"rope_scaling", {{"mrope_section", {16, 24, 24}}}}},
       "rope_scaling.mrope_section: found [16,24,24]"},
      {{{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}}},
       "rope_parameters.full_attention: found"},
  };
  for (const auto& [changes, expected] : cases) {
    EXPECT_THAT(Refusal(Changed(kLlama31, changes).dump()), HasSubstr(expected)) << changes;
  }
  EXPECT_THAT(Refusal(Changed(kQwen3, {{"use_sliding_window", true}}).dump()),
              HasSubstr("use_sliding_window: found true"));
  EXPECT_THAT(
      Refusal(
          Changed(kQwen3, {{"rope_scaling",
                            {{"type", "yarn"}, {"factor", 4}, {"beta_fast", 1}, {"beta_slow", 2}}}})
              .dump()),
      HasSubstr("rope_scaling.beta_fast: found 1, expected at least"));
}

TEST(HfConfig, RefusesBrokenJson) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"),
        std::string("{\"a\":1,\"a\":2}"), std::string("{\"\xff\xfe\":1}"),
        "{\"a\":" + std::string(1000000, '[')}) {
    EXPECT_THAT(Refusal(text), Not("accepted")) << text.substr(0, 20);
  }
}

TEST(HfConfig, ReadsTheFolder) {
  TempDir dir;
  const auto folder = ModelFolder::Open(dir.path());
  ASSERT_TRUE(folder.ok());
  EXPECT_EQ(ReadConfig(*folder).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(ReadGenerationConfig(*folder)->temperature.has_value());
  dir.Write("config.json", kLlama31);
  EXPECT_TRUE(ReadConfig(*folder).ok());
  dir.Write("generation_config.json", "{\"temperature\":0.6,");
  EXPECT_FALSE(ReadGenerationConfig(*folder).ok());
}

TEST(GenerationConfig, ReadsAndRefuses) {
  const auto config = ParseGenerationConfig(
      R"({"bos_token_id":151643,"do_sample":true,"eos_token_id":[151645,151643],
          "temperature":0.6,"top_k":20,"top_p":0.95,"min_p":0,"repetition_penalty":1.05,
          "max_new_tokens":2048,"pad_token_id":151643,"transformers_version":"4.51.0"})",
      "g");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->do_sample, true);
  EXPECT_EQ(config->temperature, 0.6);
  EXPECT_EQ(config->top_p, 0.95);
  EXPECT_EQ(config->top_k, 20);
  EXPECT_EQ(config->min_p, 0);
  EXPECT_EQ(config->repetition_penalty, 1.05);
  EXPECT_EQ(config->max_new_tokens, 2048);
  EXPECT_EQ(config->bos_token_id, 151643);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(151645, 151643));
  for (const char* bad :
       {R"({"temperature":-1})", R"({"temperature":"hot"})", R"({"top_p":-0.5})", R"({"top_p":1.5})",
        R"({"top_k":-2})", R"({"top_k":1.5})", R"({"min_p":2})", R"({"repetition_penalty":0})",
        R"({"do_sample":1})", R"({"max_new_tokens":0})", R"({"eos_token_id":[-1]})", "[]", "{"}) {
    EXPECT_FALSE(ParseGenerationConfig(bad, "g").ok()) << bad;
  }
}

}  // namespace
}  // namespace tandem::loader
