// The one table of sampling fields. The protocol's message, the command line, rows of a batch job,
// generation_config.json and the checks all walk it. A new field needs a member in SamplingRequest
// and v1::SamplingParams (proto/tandem/v1/inference.proto), and one entry here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/engine/sampling_params.h"
#include "runtime/engine/sampling_request.h"
#include "runtime/loader/generation_config.h"

namespace tandem::engine {

// The largest n of a request.
inline constexpr int32_t kMaxChoices = 64;

// A number or a flag.
template <typename T>
struct SamplingScalar {
  using Suggested = std::conditional_t<std::is_floating_point_v<T>, double, int64_t>;

  std::optional<T> SamplingRequest::*request;
  // The engine's member, whose initializer is the built-in default. Null: a field of the front, or
  // one that server::MakeSampling converts by itself.
  T SamplingParams::*params = nullptr;
  // Comes before the built-in default. Null: generation_config.json has no such field.
  std::optional<Suggested> loader::GenerationConfig::*suggested = nullptr;
};

// A list or a map. Its default is empty.
template <typename Request, typename Params>
struct SamplingList {
  Request SamplingRequest::*request;
  Params SamplingParams::*params = nullptr;  // null: a field of the front
  size_t most = 0;                           // entries
  const char* entries = "";                  // what an entry is, in errors
};
using SamplingIds = SamplingList<std::vector<int32_t>, std::vector<int32_t>>;
using SamplingTexts = SamplingList<std::vector<std::string>, std::vector<std::string>>;
using SamplingBiases =
    SamplingList<std::map<int32_t, float>, std::vector<std::pair<int32_t, float>>>;

using SamplingValue =
    std::variant<SamplingScalar<float>, SamplingScalar<int32_t>, SamplingScalar<int64_t>,
                 SamplingScalar<bool>, SamplingIds, SamplingTexts, SamplingBiases>;

// Of a number; of a text its bytes; of a map its values. NaN is in no range.
struct SamplingRange {
  double lowest = -std::numeric_limits<double>::infinity();
  double highest = std::numeric_limits<double>::infinity();
  bool above_lowest = false;  // `lowest` itself is out of range
  const char* words = "";     // the range in errors

  bool Has(double value) const {
    return (above_lowest ? value > lowest : value >= lowest) && value <= highest;
  }
};

enum class SamplingOption : uint8_t {
  kAlways,   // of every command that samples
  kOnDemand  // only of commands that add it by name
};

struct SamplingField {
  const char* name;  // in the protocol, in rows, and in errors behind "sampling."
  SamplingValue value;
  SamplingRange range;
  const char* help = "";  // of the option, which is called --NAME with dashes
  SamplingOption option = SamplingOption::kAlways;
  bool on_by_default = false;  // a flag: there is --no-NAME, too
  // In rows of a batch job: whether the short form and OpenAI's form have `name`, and another name
  // in OpenAI's form, which wins where both are given.
  bool in_short_rows = true;
  bool in_openai_rows = true;
  const char* openai_alias = nullptr;
};

// In the order of the command line's help.
std::span<const SamplingField> SamplingFields();
// `name` must be in the table.
const SamplingField& SamplingFieldNamed(std::string_view name);

}  // namespace tandem::engine
