// Takes one instruction set's function out of a table that HWY_EXPORT made. Include it in files
// that are compiled once for each target, in their HWY_ONCE part.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

namespace tandem::kernels::cpu {

// target: InstructionSet::target, which the CPU must have; 0: the compiler's baseline. Static,
// since the table's order belongs to the file that includes this.
template <typename Function, size_t size>
static HWY_INLINE Function ForTarget(Function const (&table)[size], int64_t target) {
  if constexpr (size == 1) {
    return table[0];  // one target only
  } else {
    hwy::ChosenTarget chosen;
    chosen.Update(target);
    return table[chosen.GetIndex()];
  }
}

}  // namespace tandem::kernels::cpu

// The function of `target` from HWY_EXPORT(NAME).
#define TANDEM_FOR_TARGET(NAME, target) \
  ::tandem::kernels::cpu::ForTarget(HWY_DISPATCH_TABLE(NAME), target)
