#include "kernels/cpu/instruction_set.h"

#include "absl/strings/str_cat.h"
#include "hwy/targets.h"

namespace tandem::kernels::cpu {
namespace {

struct NamedSet {
  std::string_view name;
  InstructionSet set;
};
constexpr NamedSet kSets[] = {{"avx2", {HWY_AVX2, {}}},
                              {"avx3", {HWY_AVX3, {}}},
                              {"vnni", {HWY_AVX3, {.vnni = true}}},
                              {"bf16", {HWY_AVX3, {.vnni = true, .bf16 = true}}},
                              {"neon", {HWY_NEON, {}}}};
// Those that have fused multiply-adds.
constexpr int64_t kTargets = HWY_AVX2 | HWY_AVX3 | HWY_NEON;

InstructionSet BestSet() {
  const int64_t supported = hwy::SupportedTargets() & kTargets;
  // The bits of better targets are lower.
  InstructionSet best = {.target = supported & -supported};
  if (best.target == HWY_AVX3) best.dot = SupportedDotInstructions();
  return best;
}

bool IsSupported(const InstructionSet& set) {
  const DotInstructions dot = SupportedDotInstructions();
  return (hwy::SupportedTargets() & set.target) != 0 && (!set.dot.vnni || dot.vnni) &&
         (!set.dot.bf16 || dot.bf16);
}

}  // namespace

absl::StatusOr<InstructionSet> FindInstructionSet(const std::string& name) {
  if (name == "auto") return BestSet();
  if (name == "ref") return InstructionSet();
  for (const NamedSet& known : kSets) {
    if (known.name != name) continue;
    if (IsSupported(known.set)) return known.set;
    return absl::InvalidArgumentError(
        absl::StrCat("isa: this CPU lacks '", name, "'; choose auto"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("isa: found '", name, "', expected auto, avx2, avx3, vnni, bf16, neon or ref"));
}

std::string NameOf(const InstructionSet& set) {
  if (set.target == 0) return "ref";
  return absl::StrCat(hwy::TargetName(set.target), set.dot.vnni ? "+VNNI" : "",
                      set.dot.bf16 ? "+BF16" : "");
}

}  // namespace tandem::kernels::cpu
