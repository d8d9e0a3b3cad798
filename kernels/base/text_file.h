// Text that an option names.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace tandem::launcher {

// The whole of a file. NOT_FOUND or INVALID_ARGUMENT that begin with the path: no
// such file, not readable, a folder, larger than max_bytes, or empty.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

}  // namespace tandem::launcher
