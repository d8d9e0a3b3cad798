// quantization_config of config.json: which modules of a checkpoint are quantized,
// and how each is stored. Read are GPTQ, AWQ, compressed-tensors and fp8, as
// their own packages and Transformers write them; docs/quantization.md lists
// what of each. Everything else is refused by name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/loader/name_pattern.h"

namespace tandem::loader {

// How a quantized matrix [out, in] lies in the file.
enum class QuantizedLayout : uint8_t {
  // qweight int32 [in * bits / 32, out]: a word holds codes of successive inputs,
  // low bits first; qzeros int32 [groups, out * bits / 32] likewise over outputs;
  // scales [groups, out]; g_idx int32 [in], the group of each input.
  kGptq,
  // qweight int32 [in, out / 8]: a word holds outputs 0, 2, 4, 6, 1, 3, 5, 7 of
  // eight, low nibble first; qzeros [groups, out / 8] likewise; scales [groups, out].
  kAwq,
  // weight_packed int32 [out, in * bits / 32]: code + 2^(bits - 1) of successive
  // inputs, low bits first; weight_scale [out, groups]; weight_zero_point int32
  // [out * bits / 32, groups] packed over outputs, or int8 [out, groups];
  // weight_shape [2]; weight_g_idx int32 [in] where columns are in groups of
  // their own.
  kPacked,
  // weight int8 [out, in], one code an element; weight_scale; weight_zero_point.
  kBytes,
  // weight F8_E4M3 [out, in]; weight_scale or weight_scale_inv, by which values
  // are multiplied.
  kFloat8,
};

struct QuantizedScheme {
  QuantizedLayout layout = QuantizedLayout::kPacked;
  int bits = 4;                 // 4 or 8
  bool symmetric = true;        // no zero points but the middle of the codes
  int64_t group_size = 0;       // columns that share a scale; 0: all of a row
  int64_t block_rows = 1;       // rows that share a scale; 0: all
  bool act_order = false;       // groups of columns are as g_idx says
  bool zeros_less_one = false;  // GPTQ's first format stores zero - 1
  std::string field;            // that says so, for messages
};

class QuantizationConfig {
 public:
  // `object` is the value of `field` in `file`. UNIMPLEMENTED by name where the
  // method or one of its settings is not supported. Of several patterns that match a module the
  // first in `text` counts, the file's own; where that is not given, the first by name.
  static absl::StatusOr<QuantizationConfig> Parse(std::string_view file, std::string_view field,
                                                  const nlohmann::json& object,
                                                  std::string_view text = {});

  // How a module is stored, or null where it is stored as in any checkpoint. INVALID_ARGUMENT names
  // a pattern of which matching the module's name takes too long.
  absl::StatusOr<const QuantizedScheme*> FindScheme(std::string_view module,
                                                    ModuleClass module_class) const;
  // The same, after FindScheme has succeeded for the module; else aborts.
  const QuantizedScheme* SchemeOf(std::string_view module, ModuleClass module_class) const;

  // For messages and status: "gptq", "compressed-tensors", ...
  const std::string& method() const { return method_; }
  const std::string& field() const { return field_; }  // "quantization_config"
  // Things in it that are not followed, a line each, for a log.
  const std::vector<std::string>& warnings() const { return warnings_; }
  // The file may hold scales of a quantized KV cache, which are not used.
  bool has_kv_scales() const { return has_kv_scales_; }

 private:
  // The first rule that matches counts.
  struct Rule {
    NamePattern pattern;
    int scheme = -1;  // -1: not quantized
  };
  class Reader;

  std::string file_;
  std::string method_;
  std::string field_;
  std::vector<QuantizedScheme> schemes_;
  std::vector<Rule> rules_;
  std::vector<std::string> warnings_;
  bool has_kv_scales_ = false;
};

}  // namespace tandem::loader
