// The lines of a batch job's input: a file or standard input, plain or gzip.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::batch {

struct InputLine {
  int64_t number = 0;  // from 1
  std::string text;    // without its end
};

// All lines that are not blank. `path` "-" is standard input. NOT_FOUND, INVALID_ARGUMENT for a
// line of more than 64 MiB, DATA_LOSS where reading fails or a gzip file is cut short.
absl::StatusOr<std::vector<InputLine>> ReadLines(const std::string& path);

}  // namespace tandem::batch
