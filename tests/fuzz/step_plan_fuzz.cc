// The message that carries a step to the ranks. What parses must come out of Serialize unchanged.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "runtime/engine/step_plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tandem::engine::StepPlan plan;
  const std::span<const std::byte> message(reinterpret_cast<const std::byte*>(data), size);
  if (!plan.Parse(message).ok()) return 0;
  std::vector<std::byte> again;
  plan.Serialize(again);
  if (again.size() != size || std::memcmp(again.data(), data, size) != 0) std::abort();
  return 0;
}
