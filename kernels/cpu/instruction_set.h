// Instruction sets of the CPU by name. A backend chooses one when it is made and takes its kernels
// from then on; backends of different instruction sets can live in one process.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem::kernels::cpu {

// Dot-product instructions of x86 that Highway 1.0.3 does not know.
struct DotInstructions {
  bool vnni = false;  // AVX512-VNNI, of 8-bit integers
  bool bf16 = false;  // AVX512-BF16, of pairs of bfloat16
};

struct InstructionSet {
  int64_t target = 0;  // Highway's; 0: the scalar reference
  DotInstructions dot;
};

// The set of that name (CpuOptions in cpu_backend.h lists the names), or for "auto" the best one
// that this CPU has. INVALID_ARGUMENT for other names and for sets that this CPU lacks.
absl::StatusOr<InstructionSet> FindInstructionSet(const std::string& name);

// "AVX2", "AVX3+VNNI+BF16", ... or "ref".
std::string NameOf(const InstructionSet& set);

// What this CPU has.
DotInstructions SupportedDotInstructions();
// Whether the CPU's own prefetching cannot keep up with the memory in products of one token with
// integer weights. Zen 5 gains 10 to 16 % by prefetch instructions, Zen 4 loses up to 15 %.
bool NeedsSoftwarePrefetch();

}  // namespace tandem::kernels::cpu
