#include "runtime/quantize/quantize_plan.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "runtime/model/model_tensors.h"
#include "runtime/quantize/compressed_tensors_writer.h"

namespace tandem::quantize {
namespace {

using kernels::QuantFormat;

constexpr int64_t kLeastGroup = 8;

// The target that names a module in the configuration: the last part of its name, for all layers.
std::string TargetOf(const std::string& module) {
  const size_t dot = module.rfind('.');
  const std::string part = dot == std::string::npos ? module : module.substr(dot + 1);
  return absl::StartsWith(module, "model.layers.") ? absl::StrCat("re:.*\\.", part, "$") : module;
}

absl::StatusOr<QuantizedModule> PlanModule(const loader::TensorInfo& info, const std::string& name,
                                           int bits, bool zero_points, int64_t group_size) {
  QuantizedModule module = {.name = name, .rows = info.shape[0], .columns = info.shape[1]};
  module.format = {.bits = bits,
                   .group_size = std::gcd(group_size, module.columns),
                   .zero_points = zero_points,
                   .scale_dtype = *info.dtype};
  if (module.format.group_size < kLeastGroup) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--group-size: found ", group_size, ", expected a number that shares a factor of ",
        kLeastGroup, " or more with the ", module.columns, " columns of ", name,
        ", since compressed-tensors has groups of equal size; quantize while loading instead"));
  }
  return module;
}

}  // namespace

uint64_t QuantizePlan::bytes() const {
  uint64_t sum = 0;
  for (const OutputTensor& tensor : tensors) sum += tensor.bytes();
  return sum;
}

const QuantizedModule* QuantizePlan::Find(std::string_view name) const {
  const auto found = std::find_if(modules.begin(), modules.end(),
                                  [&](const QuantizedModule& m) { return m.name == name; });
  return found == modules.end() ? nullptr : &*found;
}

absl::StatusOr<QuantizePlan> PlanQuantization(const loader::ModelConfig& config,
                                              const loader::Checkpoint& checkpoint,
                                              const QuantizeFormat& format) {
  const std::vector<loader::ExpectedTensor> expected = model::ExpectedTensors(config, nullptr);
  TANDEM_RETURN_IF_ERROR(checkpoint.CheckPresent(expected));
  QuantizePlan plan;
  std::vector<ConfigGroup> groups;
  std::vector<std::string> ignore;
  for (const loader::ExpectedTensor& tensor : expected) {
    TANDEM_ASSIGN_OR_RETURN(const loader::TensorInfo* info, checkpoint.Find(tensor.name));
    plan.source_bytes += info->bytes;
    const std::string name(absl::StripSuffix(tensor.name, ".weight"));
    const bool is_head = name == model::kEmbedding || name == model::kHead;
    const bool quantized = info->shape.size() == 2 && (!is_head || format.head_bits.has_value());
    if (!quantized) {
      plan.copied.push_back(tensor.name);
      plan.tensors.push_back({tensor.name, info->stored_type, info->shape});
      // The embedding is no linear layer: nothing targets it.
      if (name == model::kHead) ignore.push_back(name);
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(const QuantizedModule module,
                            PlanModule(*info, name, is_head ? *format.head_bits : format.bits,
                                       !is_head && format.zero_points, format.group_size));
    plan.modules.push_back(module);
    for (OutputTensor& output : PackedTensors(name, module.rows, module.columns, module.format)) {
      plan.tensors.push_back(std::move(output));
    }
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const ConfigGroup& g) { return g.format == module.format; });
    if (group == groups.end()) group = groups.insert(groups.end(), {module.format, {}});
    const std::string target = TargetOf(name);
    if (std::find(group->targets.begin(), group->targets.end(), target) == group->targets.end()) {
      group->targets.push_back(target);
    }
  }
  plan.config = PackedConfig(groups, ignore);
  return plan;
}

}  // namespace tandem::quantize
