// How a process of ours ends, after BSD's sysexits:
//
//    0  done
//   64  the command line is wrong
//   65  an input is bad: a model's file, a prompt, a request
//   69  something needed is not there: a server, a port, mpirun
//   70  a failure of our own, or a world that ended in no way we know
//   74  reading or writing failed
//   75  stopped before the end: the same line again goes on (a batch job)
//   78  the set-up cannot work: a world of another size, a missing tokenizer
//   128 + N  ended by signal N
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tandem::rank {

inline constexpr int kExitUsage = 64;
inline constexpr int kExitData = 65;
inline constexpr int kExitUnavailable = 69;
inline constexpr int kExitInternal = 70;
inline constexpr int kExitIo = 74;
inline constexpr int kExitRequeue = 75;
inline constexpr int kExitConfig = 78;

int ExitCode(const absl::Status& status);

// What could not be written to where the user wanted it; ends with kExitIo.
absl::Status OutputError(const std::string& message);

// One line on stderr, "tandem: MESSAGE", and the exit code. Line breaks in the message become
// spaces.
int ReportError(const absl::Status& status);

}  // namespace tandem::rank
