#include "runtime/plan/device_list.h"

#include <cctype>
#include <cmath>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"

namespace tandem::plan {
namespace {

std::optional<double> UnitBytes(const std::string& unit) {
  const std::string lower = absl::AsciiStrToLower(unit);
  double bytes = 1;
  for (const char* letter : {"", "k", "m", "g", "t"}) {
    const std::string name(letter);
    if (lower == name || lower == name + "b" || (!name.empty() && lower == name + "ib")) {
      return bytes;
    }
    bytes *= 1024;
  }
  return std::nullopt;
}

std::optional<uint64_t> SizeOf(absl::string_view text) {
  size_t digits = 0;
  while (digits < text.size() && (std::isdigit(text[digits]) || text[digits] == '.')) ++digits;
  double value = 0;
  const std::optional<double> unit =
      UnitBytes(std::string(absl::StripAsciiWhitespace(text.substr(digits))));
  if (!absl::SimpleAtod(text.substr(0, digits), &value) || !unit.has_value()) return std::nullopt;
  const double bytes = value * *unit;
  // No rank fits into less than a MiB; shard weights above 2^50 would overflow.
  if (!(bytes >= 1 << 20 && bytes <= std::ldexp(1.0, 50))) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

absl::Status Wrong(absl::string_view group) {
  return absl::InvalidArgumentError(
      absl::StrCat("--devices: found '", group, "', expected groups such as 2x24GiB,1x16GiB, 1 to ",
                   kMaxDevices, " devices"));
}

}  // namespace

absl::StatusOr<std::vector<PlanDevice>> ParseDevices(const std::string& devices,
                                                     const std::vector<double>& bandwidths) {
  const std::vector<absl::string_view> groups = absl::StrSplit(devices, ',');
  if (bandwidths.size() != 1 && bandwidths.size() != groups.size()) {
    return absl::InvalidArgumentError(absl::StrCat("--bandwidth: found ", bandwidths.size(),
                                                   " values, expected one or ", groups.size(),
                                                   ", one for each group of --devices"));
  }
  std::vector<PlanDevice> list;
  for (size_t i = 0; i < groups.size(); ++i) {
    const absl::string_view group = absl::StripAsciiWhitespace(groups[i]);
    int count = 1;
    absl::string_view size = group;
    const size_t cross = group.find('x');
    if (cross != absl::string_view::npos) {
      if (!absl::SimpleAtoi(group.substr(0, cross), &count)) return Wrong(group);
      size = group.substr(cross + 1);
    }
    const std::optional<uint64_t> memory = SizeOf(size);
    if (!memory.has_value() || count < 1 || count > kMaxDevices - static_cast<int>(list.size())) {
      return Wrong(group);
    }
    const double bandwidth = 1e9 * bandwidths[bandwidths.size() == 1 ? 0 : i];
    list.insert(list.end(), count, {.memory = *memory, .bandwidth = bandwidth});
  }
  return list;
}

}  // namespace tandem::plan
