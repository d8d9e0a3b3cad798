// Reads whole files into memory, with a limit on their size.
//
// Messages are one line and begin with the path: "PATH: cannot open: No such file or directory".
// NOT_FOUND: there is no such file. INVALID_ARGUMENT: it is a folder, cannot be opened, or has more
// than max_bytes. DATA_LOSS: reading failed.
#pragma once

#include <cstddef>
#include <istream>
#include <string>

#include "absl/status/statusor.h"

namespace tandem {

// A file of any kind, empty ones too. Waits for the end of a pipe.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

// A regular file, or a link to one. INVALID_ARGUMENT for anything else: never waits for a pipe.
absl::StatusOr<std::string> ReadRegularFile(const std::string& path, size_t max_bytes);

// Like ReadFile. INVALID_ARGUMENT for an empty file too.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

// The rest of a stream. Messages begin with `name`.
absl::StatusOr<std::string> ReadStream(std::istream& in, const std::string& name, size_t max_bytes);

}  // namespace tandem
