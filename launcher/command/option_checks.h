// Ranges and checks that options of several commands share.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace tandem::launcher {

inline constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max();
inline constexpr int64_t kMaxSequences = 1 << 20;

// A check before CLI::AsSizeValue, which would accept a negative size. Returns the error, or an
// empty string.
inline std::string RejectNegativeSize(const std::string& text, const std::string& example) {
  return !text.empty() && text[0] == '-' ? "expected a size such as " + example + ", found " + text
                                         : std::string();
}

}  // namespace tandem::launcher
