// A quantized checkpoint: the first byte chooses a scheme, the rest is
// config.json's quantization_config, a NUL, and a safetensors file whose module
// "m" is read as [8, 8] with that scheme and with the configuration's own.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/json.h"
#include "runtime/loader/quantized_weight.h"
#include "tests/runtime/loader/temp_dir.h"

namespace {

using namespace tandem::loader;

constexpr int64_t kRows = 8;
constexpr int64_t kColumns = 8;

void Read(const TempDir& folder, const QuantizedScheme& scheme) {
  const auto model = ModelFolder::Open(folder.path());
  if (!model.ok()) return;
  const auto checkpoint = Checkpoint::Open(*model);
  if (!checkpoint.ok()) return;
  const auto weight = QuantizedWeight::Take(**checkpoint, scheme, "m", kRows, kColumns);
  if (!weight.ok()) return;
  for (const Block& block : {Block{0, kRows, 0, kColumns}, Block{3, 5, 1, 6}}) {
    if (!(*weight)->Prepare(block).ok()) return;
    std::vector<std::byte> values(block.rows() * block.columns() * 2);
    (void)(*weight)->ReadValues(block, tandem::kernels::DType::kBF16, values.data(),
                                block.columns() * 2);
    if (!(*weight)->format()) continue;
    std::vector<int8_t> codes(block.rows() * block.columns());
    std::vector<float> scales(block.rows() * block.columns());
    std::vector<uint8_t> zeros(block.rows() * block.columns());
    (void)(*weight)->ReadCodes(block, {codes.data(), scales.data(), zeros.data()});
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const uint8_t choice = data[0];
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t cut = std::min(rest.find('\0'), rest.size());
  static const TempDir folder;
  folder.Write("model.safetensors", rest.substr(std::min(rest.size(), cut + 1)));
  folder.Write("config.json", "{}");

  const auto object = tandem::json::Parse(rest.substr(0, cut), "config.json", 12);
  if (object.ok()) {
    const auto config = QuantizationConfig::Parse("config.json", "quantization_config", *object);
    if (config.ok()) {
      for (const ModuleClass kind : {ModuleClass::kLinear, ModuleClass::kEmbedding}) {
        const auto scheme = config->FindScheme("m", kind);
        if (scheme.ok() && *scheme != nullptr) Read(folder, **scheme);
      }
    }
  }
  Read(folder, {.layout = static_cast<QuantizedLayout>(choice % 5),
                .bits = choice & 8 ? 8 : 4,
                .symmetric = (choice & 16) != 0,
                .group_size = choice & 32 ? 4 : 0,
                .block_rows = choice & 64 ? 0 : 1,
                .act_order = (choice & 128) != 0});
  return 0;
}
