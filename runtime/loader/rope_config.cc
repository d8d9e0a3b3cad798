#include "runtime/loader/rope_config.h"

#include <cmath>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

using Json = nlohmann::json;
using Kind = RopeConfig::Kind;

constexpr double kDefaultTheta = 10000.0;  // of Transformers, both families
constexpr double kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;
constexpr int64_t kMaxPositions = 1 << 30;

// How much larger cos and sin get for a context stretched by `scale`.
double YarnScale(double scale, double mscale) {
  if (scale <= 1) return 1.0;
  return 0.1 * mscale * static_cast<double>(logl(scale)) + 1.0;
}

absl::StatusOr<Kind> ReadKind(const json::Field& fields, bool default_if_absent) {
  TANDEM_ASSIGN_OR_RETURN(const auto rope_type, fields.String("rope_type"));
  TANDEM_ASSIGN_OR_RETURN(const auto type, fields.String("type"));
  if (rope_type && type && *rope_type != *type) {
    return fields.Wrong("type", absl::StrCat("the same as rope_type = ", json::Quoted(*rope_type)));
  }
  const char* field = rope_type ? "rope_type" : "type";
  const std::optional<std::string>& name = rope_type ? rope_type : type;
  constexpr char kKinds[] = "default, linear, llama3 or yarn";
  if (!name) {
    if (default_if_absent) return Kind::kDefault;
    return fields.Wrong("rope_type", kKinds);
  }
  if (*name == "default") return Kind::kDefault;
  if (*name == "linear") return Kind::kLinear;
  if (*name == "llama3") return Kind::kLlama3;
  if (*name == "yarn") return Kind::kYarn;
  return fields.Unsupported(field, absl::StrCat(kKinds, "; no other stretching is supported"));
}

absl::Status ReadLlama3(const json::Field& fields, RopeConfig& rope) {
  TANDEM_ASSIGN_OR_RETURN(rope.low_freq_factor,
                          fields.RequiredDouble("low_freq_factor", 1e-6, kMaxFactor));
  TANDEM_ASSIGN_OR_RETURN(rope.high_freq_factor,
                          fields.RequiredDouble("high_freq_factor", 1e-6, kMaxFactor));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    return fields.Wrong("high_freq_factor",
                        absl::StrCat("more than low_freq_factor = ", rope.low_freq_factor));
  }
  TANDEM_ASSIGN_OR_RETURN(rope.original_max_position_embeddings,
                          fields.RequiredInt("original_max_position_embeddings", 1, kMaxPositions));
  return absl::OkStatus();
}

absl::Status ReadYarn(const json::Field& fields, int64_t max_position_embeddings,
                      RopeConfig& rope) {
  // Zero counts as absent where Transformers writes `x or default`.
  TANDEM_ASSIGN_OR_RETURN(const auto beta_fast, fields.Double("beta_fast", 0, kMaxFactor));
  TANDEM_ASSIGN_OR_RETURN(const auto beta_slow, fields.Double("beta_slow", 0, kMaxFactor));
  if (beta_fast.value_or(0) != 0) rope.beta_fast = *beta_fast;
  if (beta_slow.value_or(0) != 0) rope.beta_slow = *beta_slow;
  if (rope.beta_fast < rope.beta_slow) {
    return fields.Wrong("beta_fast", absl::StrCat("at least beta_slow = ", rope.beta_slow));
  }
  TANDEM_ASSIGN_OR_RETURN(const auto truncate, fields.Bool("truncate"));
  rope.truncate = truncate.value_or(true);
  TANDEM_ASSIGN_OR_RETURN(const auto original,
                          fields.Int("original_max_position_embeddings", 1, kMaxPositions));
  rope.original_max_position_embeddings = original.value_or(max_position_embeddings);

  // DeepSeek-R1-0528-Qwen3-8B writes `attn_factor` 0.8782... here, a name that
  // Transformers does not know and ignores, so that its cos and sin are scaled
  // by 0.1 ln 4 + 1 = 1.1386; other runtimes multiply the two (to 1.0). We do
  // as Transformers does, whose logits ours are tested against.
  TANDEM_ASSIGN_OR_RETURN(const auto given, fields.Double("attention_factor", 0, kMaxFactor));
  TANDEM_ASSIGN_OR_RETURN(const auto mscale, fields.Double("mscale", 0, kMaxFactor));
  TANDEM_ASSIGN_OR_RETURN(const auto all_dim, fields.Double("mscale_all_dim", 0, kMaxFactor));
  if (given) {
    rope.attention_factor = *given;
  } else if (mscale.value_or(0) != 0 && all_dim.value_or(0) != 0) {
    rope.attention_factor = YarnScale(rope.factor, *mscale) / YarnScale(rope.factor, *all_dim);
  } else {
    rope.attention_factor = YarnScale(rope.factor, 1.0);
  }
  return absl::OkStatus();
}

// `dict` is rope_scaling or rope_parameters, called `name`.
absl::StatusOr<RopeConfig> ReadDict(const json::Field& root, const Json& dict, const char* name,
                                    std::optional<double> theta, bool default_if_no_type,
                                    int64_t max_position_embeddings) {
  if (!dict.is_object()) return root.Wrong(name, "an object or null");
  const json::Field fields(dict, root.place(), name);
  for (const auto& [key, value] : dict.items()) {
    if (value.is_object() || value.is_array()) {
      // Values by layer type, per-dimension factors, multimodal sections.
      return fields.Unsupported(key.c_str(),
                                "a number, string or bool; one rotary embedding for "
                                "all layers and dimensions is supported");
    }
  }
  RopeConfig rope;
  TANDEM_ASSIGN_OR_RETURN(rope.kind, ReadKind(fields, default_if_no_type));
  TANDEM_ASSIGN_OR_RETURN(const auto own_theta, fields.Double("rope_theta", 1.0001, kMaxTheta));
  if (own_theta && theta && *own_theta != *theta) {
    return fields.Wrong("rope_theta",
                        absl::StrCat("the same as rope_theta = ", *theta, " outside; remove one"));
  }
  rope.theta = own_theta ? *own_theta : theta.value_or(kDefaultTheta);
  TANDEM_ASSIGN_OR_RETURN(const auto partial, fields.Double("partial_rotary_factor", 0, 1));
  if (partial.value_or(1) != 1) {
    return fields.Unsupported("partial_rotary_factor", "1; partial rotation is not supported");
  }
  if (rope.kind == Kind::kDefault) return rope;
  // The written factor, as in Transformers since 4.57; before, yarn divided
  // max_position_embeddings by the original. Published models have both equal.
  TANDEM_ASSIGN_OR_RETURN(rope.factor, fields.RequiredDouble("factor", 1, kMaxFactor));
  if (rope.kind == Kind::kLlama3) TANDEM_RETURN_IF_ERROR(ReadLlama3(fields, rope));
  if (rope.kind == Kind::kYarn) {
    TANDEM_RETURN_IF_ERROR(ReadYarn(fields, max_position_embeddings, rope));
  }
  return rope;
}

}  // namespace

absl::StatusOr<RopeConfig> ReadRope(const json::Field& fields, int64_t max_position_embeddings) {
  TANDEM_ASSIGN_OR_RETURN(const auto theta, fields.Double("rope_theta", 1.0001, kMaxTheta));
  RopeConfig plain;
  plain.theta = theta.value_or(kDefaultTheta);

  std::optional<RopeConfig> scaling;
  if (const Json* dict = fields.Value("rope_scaling")) {
    TANDEM_ASSIGN_OR_RETURN(scaling,
                            ReadDict(fields, *dict, "rope_scaling", theta,
                                     /*default_if_no_type=*/false, max_position_embeddings));
  }
  std::optional<RopeConfig> parameters;
  if (const Json* dict = fields.Value("rope_parameters")) {
    // A file of both spellings may hold theta in the newer one only.
    TANDEM_ASSIGN_OR_RETURN(parameters,
                            ReadDict(fields, *dict, "rope_parameters", theta,
                                     /*default_if_no_type=*/true, max_position_embeddings));
    if (scaling && !theta) scaling->theta = parameters->theta;
  }
  if (scaling && parameters && !(*scaling == *parameters)) {
    return fields.Wrong("rope_parameters", "what rope_scaling says; remove the wrong one");
  }
  return parameters ? *parameters : scaling ? *scaling : plain;
}

}  // namespace tandem::loader
