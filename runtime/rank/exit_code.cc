#include "runtime/rank/exit_code.h"

#include <algorithm>
#include <cstdio>
#include <string>

namespace tandem::rank {

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kDataLoss:  // a file that is damaged or cannot be read
      return kExitData;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
      return kExitUnavailable;
    case absl::StatusCode::kAborted:  // OutputError
    case absl::StatusCode::kPermissionDenied:
      return kExitIo;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kUnauthenticated:
      return kExitConfig;
    default:
      return kExitInternal;
  }
}

absl::Status OutputError(const std::string& message) { return absl::AbortedError(message); }

int ReportError(const absl::Status& status) {
  std::string line(status.message());
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::fprintf(stderr, "tandem: %s\n", line.c_str());
  return ExitCode(status);
}

}  // namespace tandem::rank
