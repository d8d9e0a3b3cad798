// Reads files whole, with a limit.
#pragma once

#include <cstddef>
#include <istream>
#include <string>

#include "absl/status/statusor.h"

namespace tandem {

// The whole of a file. NOT_FOUND or INVALID_ARGUMENT that begin with the path: no
// such file, not readable, a folder, larger than max_bytes, or empty.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

// The same for any bytes; the file may be empty. NOT_FOUND: no such file; DATA_LOSS: cannot be
// read; INVALID_ARGUMENT: more than max_bytes. Messages begin with the path.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

// The rest of a stream that messages call `name`.
absl::StatusOr<std::string> ReadStream(std::istream& in, const std::string& name, size_t max_bytes);

}  // namespace tandem
