// Where commands write: standard output, and files named by options.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tandem::launcher {

// Called before any work: OutputError if standard output is closed. `what` is the subject and verb
// of the error, such as "the answer has".
absl::Status CheckStdout(const std::string& what);

// Writes all of the text and flushes; OutputError if that fails.
absl::Status WriteStdout(absl::string_view text);

// Replaces the file; OutputError with the name of the option if that fails.
absl::Status WriteFile(const std::string& option, const std::string& path, absl::string_view text);

}  // namespace tandem::launcher
