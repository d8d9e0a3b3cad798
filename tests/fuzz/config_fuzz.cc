// config.json and generation_config.json.
#include <cstdint>
#include <string_view>

#include "runtime/loader/generation_config.h"
#include "runtime/loader/hf_config.h"
#include "runtime/loader/rope_frequencies.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = tandem::loader::ParseConfig(text, "config.json");
  (void)tandem::loader::ParseGenerationConfig(text, "generation_config.json");
  return 0;
}
