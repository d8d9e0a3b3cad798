#include "runtime/loader/quantization_config.h"

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/json.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

using Json = nlohmann::json;
using Kind = NamePattern::Kind;

constexpr int64_t kMaxGroup = 1 << 20;
constexpr size_t kMaxRules = 100'000;

constexpr char kMethods[] =
    "gptq, awq, compressed-tensors or fp8; use the checkpoint that this one was quantized from";

}  // namespace

// Fills a QuantizationConfig. Messages are of the object's fields.
class QuantizationConfig::Reader {
 public:
  Reader(std::string_view file, std::string_view field, const Json& object, std::string_view text,
         QuantizationConfig& config)
      : file_(file),
        prefix_(absl::StrCat(std::string(field), ".")),
        text_(text),
        object_(object),
        fields_(object, file, field),
        config_(config) {}

  absl::Status Read() {
    TANDEM_ASSIGN_OR_RETURN(std::optional<std::string> method, fields_.String("quant_method"));
    if (!method && fields_.Value("config_groups") != nullptr) method = "compressed-tensors";
    if (!method) return fields_.Wrong("quant_method", kMethods);
    config_.method_ = *method;
    if (*method == "gptq") return ReadGptq();
    if (*method == "awq") return ReadAwq();
    if (*method == "fp8") return ReadFp8();
    if (*method == "compressed-tensors") return ReadCompressedTensors();
    return fields_.Unsupported("quant_method", kMethods);
  }

 private:
  struct Member {
    std::string key;
    const Json& value;
  };
  // Of the object that `field` is, as the file orders them.
  std::vector<Member> InOrder(const char* field, const Json& object) const {
    std::vector<std::string> keys = json::KeysInOrder(text_, {config_.field_, field});
    if (keys.empty()) {
      for (auto it = object.begin(); it != object.end(); ++it) keys.push_back(it.key());
    }
    std::vector<Member> members;
    for (std::string& key : keys) {
      const Json& value = object.at(key);
      members.push_back({std::move(key), value});
    }
    return members;
  }

  absl::Status AddRule(const json::Field& fields, const char* field, Kind kind,
                       std::string_view text, int scheme) {
    auto pattern = NamePattern::Make(kind, text);
    if (!pattern.ok()) {
      return fields.Wrong(field, absl::StrCat("expressions that can be read; ", json::Quoted(text),
                                              " is ", std::string(pattern.status().message())));
    }
    if (config_.rules_.size() >= kMaxRules) {
      return fields.Wrong(field, absl::StrCat("at most ", kMaxRules, " names"));
    }
    config_.rules_.push_back({*std::move(pattern), scheme});
    return absl::OkStatus();
  }

  int AddScheme(QuantizedScheme scheme) {
    config_.schemes_.push_back(std::move(scheme));
    return static_cast<int>(config_.schemes_.size()) - 1;
  }

  // Names that stay as they are, each matching a part of a module's name.
  absl::Status AddUnconverted(const char* field) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> names, fields_.Strings(field));
    for (const std::string& name : names) {
      TANDEM_RETURN_IF_ERROR(AddRule(fields_, field, Kind::kPart, name, -1));
    }
    return absl::OkStatus();
  }

  absl::Status AddForAllLinear(const QuantizedScheme& scheme) {
    return AddRule(fields_, "quant_method", Kind::kClass, "Linear", AddScheme(scheme));
  }

  // bits, group_size, sym and desc_act of GPTQ where `fields` has them.
  static absl::Status ReadGptqScheme(const json::Field& fields, bool& act_order,
                                     QuantizedScheme& scheme) {
    TANDEM_ASSIGN_OR_RETURN(const auto bits, fields.Int("bits", 1, 64));
    if (bits && *bits != 4 && *bits != 8) return fields.Unsupported("bits", "4 or 8");
    if (bits) scheme.bits = static_cast<int>(*bits);
    TANDEM_ASSIGN_OR_RETURN(const auto group, fields.Int("group_size", -1, kMaxGroup));
    if (group && *group == 0) return fields.Wrong("group_size", "-1, or columns of a group");
    if (group) scheme.group_size = *group < 0 ? 0 : *group;
    TANDEM_ASSIGN_OR_RETURN(const auto symmetric, fields.Bool("sym"));
    scheme.symmetric = symmetric.value_or(scheme.symmetric);
    TANDEM_ASSIGN_OR_RETURN(const auto desc_act, fields.Bool("desc_act"));
    act_order = desc_act.value_or(act_order);
    // With one group a row there is nothing to reorder.
    scheme.act_order = act_order && scheme.group_size != 0;
    return absl::OkStatus();
  }

  absl::Status ReadGptq() {
    QuantizedScheme scheme = {.layout = QuantizedLayout::kGptq, .field = prefix_ + "bits"};
    TANDEM_RETURN_IF_ERROR(fields_.RequiredInt("bits", 1, 64).status());
    TANDEM_RETURN_IF_ERROR(fields_.RequiredInt("group_size", -1, kMaxGroup).status());
    bool act_order = false;
    TANDEM_RETURN_IF_ERROR(ReadGptqScheme(fields_, act_order, scheme));
    const char* field =
        fields_.Value("checkpoint_format") != nullptr ? "checkpoint_format" : "format";
    TANDEM_ASSIGN_OR_RETURN(const auto format, fields_.String(field));
    TANDEM_ASSIGN_OR_RETURN(const auto marlin, fields_.Bool("is_marlin_format"));
    if (format && *format != "gptq" && *format != "gptq_v2") {
      return fields_.Unsupported(field, "gptq or gptq_v2");
    }
    if (marlin.value_or(false)) {
      return fields_.Unsupported("is_marlin_format", "false; use the checkpoint in gptq's format");
    }
    TANDEM_ASSIGN_OR_RETURN(const auto pack_type, fields_.String("pack_dtype"));
    if (pack_type && *pack_type != "int32") return fields_.Unsupported("pack_dtype", "int32");
    scheme.zeros_less_one = !format || *format == "gptq";

    TANDEM_RETURN_IF_ERROR(ReadGptqDynamic(scheme, act_order));
    TANDEM_ASSIGN_OR_RETURN(const auto lm_head, fields_.Bool("lm_head"));
    if (!lm_head.value_or(false)) {
      TANDEM_RETURN_IF_ERROR(AddRule(fields_, "lm_head", Kind::kName, "lm_head", -1));
    }
    const Json* blocks = fields_.Value("modules_in_block_to_quantize");
    if (blocks == nullptr) return AddForAllLinear(scheme);
    const int index = AddScheme(scheme);
    TANDEM_RETURN_IF_ERROR(ReadGptqBlocks(*blocks, index));
    if (!lm_head.value_or(false)) return absl::OkStatus();
    return AddRule(fields_, "lm_head", Kind::kName, "lm_head", index);
  }

  // "dynamic": patterns of modules that have settings of their own ("+:") or are not quantized
  // ("-:").
  absl::Status ReadGptqDynamic(const QuantizedScheme& scheme, bool act_order) {
    const Json* dynamic = fields_.Value("dynamic");
    if (dynamic == nullptr || (dynamic->is_boolean() && !dynamic->get<bool>())) {
      return absl::OkStatus();
    }
    if (!dynamic->is_object()) {
      return fields_.Wrong("dynamic", "an object of patterns and settings");
    }
    for (const auto& [key, value] : InOrder("dynamic", *dynamic)) {
      std::string_view pattern = key;
      const bool excluded = absl::StartsWith(key, "-:");
      if (excluded || absl::StartsWith(key, "+:")) pattern.remove_prefix(2);
      int index = -1;
      if (!excluded) {
        const std::string path = absl::StrCat(prefix_, "dynamic.", json::Quoted(key));
        if (!value.is_object()) return fields_.Wrong("dynamic", "an object of settings a pattern");
        QuantizedScheme changed = scheme;
        bool order = act_order;
        TANDEM_RETURN_IF_ERROR(ReadGptqScheme(json::Field(value, file_, path), order, changed));
        index = AddScheme(changed);
      }
      TANDEM_RETURN_IF_ERROR(AddRule(fields_, "dynamic", Kind::kRegex, pattern, index));
    }
    return absl::OkStatus();
  }

  // "modules_in_block_to_quantize", [["self_attn.q_proj", ...], ...]: only these are quantized.
  absl::Status ReadGptqBlocks(const Json& blocks, int scheme) {
    constexpr char kField[] = "modules_in_block_to_quantize";
    if (!blocks.is_array()) return fields_.Wrong(kField, "lists");
    const auto add = [&](const Json& name) {
      return name.is_string()
                 ? AddRule(fields_, kField, Kind::kPart, name.get<std::string>(), scheme)
                 : fields_.Wrong(kField, "lists of names");
    };
    for (const Json& block : blocks) {
      if (!block.is_array()) {
        TANDEM_RETURN_IF_ERROR(add(block));
        continue;
      }
      for (const Json& name : block) TANDEM_RETURN_IF_ERROR(add(name));
    }
    return absl::OkStatus();
  }

  absl::Status ReadAwq() {
    QuantizedScheme scheme = {.layout = QuantizedLayout::kAwq, .field = prefix_ + "bits"};
    const char* bits_field = fields_.Value("w_bit") != nullptr ? "w_bit" : "bits";
    TANDEM_ASSIGN_OR_RETURN(const int64_t bits, fields_.RequiredInt(bits_field, 1, 64));
    if (bits != 4) return fields_.Unsupported(bits_field, "4");
    const char* group_field =
        fields_.Value("q_group_size") != nullptr ? "q_group_size" : "group_size";
    TANDEM_ASSIGN_OR_RETURN(const int64_t group, fields_.RequiredInt(group_field, -1, kMaxGroup));
    if (group == 0) return fields_.Wrong(group_field, "-1, or columns of a group");
    scheme.group_size = group < 0 ? 0 : group;
    TANDEM_ASSIGN_OR_RETURN(const auto version, fields_.String("version"));
    if (version && absl::AsciiStrToLower(*version) != "gemm") {
      return fields_.Unsupported("version", "gemm");
    }
    TANDEM_ASSIGN_OR_RETURN(const auto backend, fields_.String("backend"));
    if (backend && *backend == "llm-awq") return fields_.Unsupported("backend", "autoawq");
    TANDEM_ASSIGN_OR_RETURN(const auto zero_point, fields_.Bool("zero_point"));
    scheme.symmetric = !zero_point.value_or(true);
    TANDEM_RETURN_IF_ERROR(AddUnconverted("modules_to_not_convert"));
    TANDEM_RETURN_IF_ERROR(AddRule(fields_, "quant_method", Kind::kName, "lm_head", -1));
    return AddForAllLinear(scheme);
  }

  absl::Status ReadFp8() {
    QuantizedScheme scheme = {.layout = QuantizedLayout::kFloat8,
                              .bits = 8,
                              .block_rows = 0,
                              .field = prefix_ + "weight_block_size"};
    TANDEM_ASSIGN_OR_RETURN(const auto activations, fields_.String("activation_scheme"));
    if (activations && *activations != "dynamic" && *activations != "static") {
      return fields_.Unsupported("activation_scheme", "dynamic or static");
    }
    TANDEM_ASSIGN_OR_RETURN(const auto type, fields_.String("fmt"));
    if (type && *type != "e4m3") return fields_.Unsupported("fmt", "e4m3");
    TANDEM_RETURN_IF_ERROR(ReadBlock(fields_, "weight_block_size", scheme));
    config_.has_kv_scales_ = true;  // no field says so
    TANDEM_RETURN_IF_ERROR(AddUnconverted("modules_to_not_convert"));
    TANDEM_RETURN_IF_ERROR(AddUnconverted("ignored_layers"));
    return AddForAllLinear(scheme);
  }

  // [rows, columns] that share a scale, where the field is there.
  static absl::Status ReadBlock(const json::Field& fields, const char* field,
                                QuantizedScheme& scheme) {
    const Json* block = fields.Value(field);
    if (block == nullptr) return absl::OkStatus();
    const auto is_length = [](const Json& length) {
      return length.is_number_integer() && length > 0 && length <= kMaxGroup;
    };
    if (!block->is_array() || block->size() != 2 || !is_length((*block)[0]) ||
        !is_length((*block)[1])) {
      return fields.Wrong(field, "[rows, columns] of a block");
    }
    scheme.block_rows = (*block)[0].get<int64_t>();
    scheme.group_size = (*block)[1].get<int64_t>();
    return absl::OkStatus();
  }

  absl::Status ReadCompressedTensors() {
    TANDEM_ASSIGN_OR_RETURN(const auto status, fields_.String("quantization_status"));
    if (status && *status != "compressed") {
      return fields_.Unsupported("quantization_status",
                                 "compressed; save the checkpoint compressed");
    }
    for (const char* field : {"sparsity_config", "transform_config"}) {
      const Json* value = fields_.Value(field);
      if (value == nullptr || (value->is_object() && value->empty())) continue;
      const auto format = value->is_object() ? value->find("format") : value->end();
      if (value->is_object() && format != value->end() && *format == "dense") continue;
      return fields_.Unsupported(field, "none; use a checkpoint without it");
    }
    if (fields_.Value("kv_cache_scheme") != nullptr) {
      config_.has_kv_scales_ = true;
      config_.warnings_.push_back(
          absl::StrCat(prefix_, "kv_cache_scheme is not followed: the KV cache has --kv-dtype"));
    }
    TANDEM_ASSIGN_OR_RETURN(const auto ignored, fields_.Strings("ignore"));
    for (const std::string& name : ignored) {
      TANDEM_RETURN_IF_ERROR(AddTarget(fields_, "ignore", name, -1, std::nullopt));
    }
    TANDEM_ASSIGN_OR_RETURN(const auto format, fields_.String("format"));
    const Json* groups = fields_.Value("config_groups");
    if (groups == nullptr || !groups->is_object()) {
      return fields_.Wrong("config_groups", "an object of groups");
    }
    const std::vector<Member> members = InOrder("config_groups", *groups);
    std::vector<int> schemes;
    for (const auto& [name, group] : members) {
      TANDEM_ASSIGN_OR_RETURN(const int scheme,
                              ReadGroup(name, group, format.value_or("pack-quantized")));
      schemes.push_back(scheme);
    }
    // A module's own name counts before an expression, that before its class.
    for (const Kind kind : {Kind::kName, Kind::kRegex, Kind::kClass}) {
      for (size_t index = 0; index < members.size(); ++index) {
        const std::string path = absl::StrCat(prefix_, "config_groups.", members[index].key);
        const json::Field fields(members[index].value, file_, path);
        TANDEM_ASSIGN_OR_RETURN(const auto targets, fields.Strings("targets"));
        if (targets.empty()) return fields.Wrong("targets", "a list of module names or classes");
        for (const std::string& target : targets) {
          TANDEM_RETURN_IF_ERROR(AddTarget(fields, "targets", target, schemes[index], kind));
        }
      }
    }
    return absl::OkStatus();
  }

  // "re:EXPRESSION", a module's name or its class; only of one kind where that is given.
  absl::Status AddTarget(const json::Field& fields, const char* field, const std::string& text,
                         int scheme, std::optional<Kind> only) {
    const auto add = [&](Kind kind, std::string_view name) {
      return only.value_or(kind) == kind ? AddRule(fields, field, kind, name, scheme)
                                         : absl::OkStatus();
    };
    if (absl::StartsWith(text, "re:")) {
      return add(Kind::kRegex, std::string_view(text).substr(3));
    }
    TANDEM_RETURN_IF_ERROR(add(Kind::kName, text));
    return add(Kind::kClass, text);
  }

  // Index of the group's scheme; -1 where its weights are not quantized.
  absl::StatusOr<int> ReadGroup(const std::string& name, const Json& group,
                                const std::string& common_format) {
    const std::string path = absl::StrCat(prefix_, "config_groups.", name);
    if (!group.is_object()) {
      return fields_.Unsupported("config_groups",
                                 absl::StrCat("an object as ", json::Quoted(name)));
    }
    const json::Field fields(group, file_, path);
    TANDEM_ASSIGN_OR_RETURN(const auto own_format, fields.String("format"));
    const std::string format = own_format.value_or(common_format);
    const Json* weights = fields.Value("weights");
    if (weights == nullptr) return -1;
    if (!weights->is_object()) return fields.Wrong("weights", "an object of settings");
    const json::Field args(*weights, file_, path + ".weights");

    QuantizedScheme scheme = {.field = path + ".weights"};
    TANDEM_ASSIGN_OR_RETURN(const auto type, args.String("type"));
    const bool is_float = type.value_or("int") == "float";
    if (type && *type != "int" && *type != "float") return args.Unsupported("type", "int or float");
    TANDEM_ASSIGN_OR_RETURN(const int64_t bits, args.RequiredInt("num_bits", 1, 64));
    if (bits != 8 && (bits != 4 || is_float)) {
      return args.Unsupported("num_bits", is_float ? "8 for floats" : "4 or 8");
    }
    scheme.bits = static_cast<int>(bits);
    if (format == "pack-quantized" && !is_float) {
      scheme.layout = QuantizedLayout::kPacked;
    } else if ((format == "int-quantized" || format == "naive-quantized") && !is_float) {
      scheme.layout = QuantizedLayout::kBytes;
    } else if ((format == "float-quantized" || format == "naive-quantized") && is_float) {
      scheme.layout = QuantizedLayout::kFloat8;
    } else {
      return (own_format ? fields : fields_)
          .Unsupported("format", is_float ? "float-quantized for floats"
                                          : "pack-quantized or int-quantized for integers");
    }
    TANDEM_ASSIGN_OR_RETURN(const auto symmetric, args.Bool("symmetric"));
    scheme.symmetric = symmetric.value_or(true);
    if (is_float && !scheme.symmetric) return args.Unsupported("symmetric", "true for floats");
    TANDEM_RETURN_IF_ERROR(ReadStrategy(args, scheme));
    TANDEM_ASSIGN_OR_RETURN(const auto order, ActivationOrder(args));
    scheme.act_order = order && scheme.group_size != 0;
    return AddScheme(scheme);
  }

  static absl::Status ReadStrategy(const json::Field& args, QuantizedScheme& scheme) {
    TANDEM_ASSIGN_OR_RETURN(auto strategy, args.String("strategy"));
    TANDEM_ASSIGN_OR_RETURN(const auto group, args.Int("group_size", -1, kMaxGroup));
    if (!strategy) {
      strategy = !group ? "tensor" : *group > 0 ? "group" : "channel";
    }
    if (*strategy == "tensor") {
      scheme.block_rows = 0;
    } else if (*strategy == "group") {
      if (!group || *group < 1) return args.Wrong("group_size", "columns of a group");
      scheme.group_size = *group;
    } else if (*strategy == "block") {
      if (scheme.layout != QuantizedLayout::kFloat8) {
        return args.Unsupported("strategy", "tensor, channel or group for integers");
      }
      TANDEM_RETURN_IF_ERROR(ReadBlock(args, "block_structure", scheme));
      if (scheme.group_size == 0)
        return args.Wrong("block_structure", "[rows, columns] of a block");
    } else if (*strategy != "channel") {
      return args.Unsupported("strategy", "tensor, channel, group or block");
    }
    return absl::OkStatus();
  }

  // Whether columns are in groups of their own; "weight" orders them only while
  // quantizing.
  static absl::StatusOr<bool> ActivationOrder(const json::Field& args) {
    const Json* order = args.Value("actorder");
    if (order == nullptr) return false;
    if (order->is_boolean()) return order->get<bool>();
    if (!order->is_string()) return args.Wrong("actorder", "weight, group or null");
    const std::string name = absl::AsciiStrToLower(order->get<std::string>());
    if (name == "weight" || name == "static") return false;
    if (name == "group" || name == "dynamic") return true;
    return args.Unsupported("actorder", "weight or group");
  }

  const std::string file_;
  const std::string prefix_;
  const std::string_view text_;
  const Json& object_;
  const json::Field fields_;
  QuantizationConfig& config_;
};

absl::StatusOr<QuantizationConfig> QuantizationConfig::Parse(std::string_view file,
                                                             std::string_view field,
                                                             const Json& object,
                                                             std::string_view text) {
  if (!object.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(file), ": ", std::string(field),
                                                   ": found ", json::Shown(object),
                                                   ", expected an object of fields"));
  }
  QuantizationConfig config;
  config.file_ = std::string(file);
  config.field_ = std::string(field);
  TANDEM_RETURN_IF_ERROR(Reader(file, field, object, text, config).Read());
  return config;
}

absl::StatusOr<const QuantizedScheme*> QuantizationConfig::FindScheme(
    std::string_view module, ModuleClass module_class) const {
  for (const Rule& rule : rules_) {
    const absl::StatusOr<bool> matches = rule.pattern.Matches(module, module_class);
    if (!matches.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          file_, ": ", field_, ": found the expression ", json::Quoted(rule.pattern.text()),
          ", expected one that can be matched with ", json::Quoted(module), " (",
          std::string(matches.status().message()), "); write a simpler one"));
    }
    if (*matches) return rule.scheme < 0 ? nullptr : &schemes_[rule.scheme];
  }
  return nullptr;
}

const QuantizedScheme* QuantizationConfig::SchemeOf(std::string_view module,
                                                    ModuleClass module_class) const {
  const absl::StatusOr<const QuantizedScheme*> scheme = FindScheme(module, module_class);
  TANDEM_CHECK(scheme.ok());
  return *scheme;
}

}  // namespace tandem::loader
