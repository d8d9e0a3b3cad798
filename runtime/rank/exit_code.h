// The exit codes of the program, after BSD's sysexits:
//
//    0  done
//   64  the command line is wrong
//   65  an input is bad: a model's file, a prompt, a request
//   69  something needed is missing: a server, a port, mpirun, memory
//   70  an internal failure, a rank that died or hung, or a world that ended for an unknown reason
//   74  reading or writing failed
//   75  a batch job stopped before its end; the same command line continues it
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

// An output that the user asked for could not be written. Its exit code is kExitIo.
absl::Status OutputError(const std::string& message);

// Prints one line to stderr, "tandem: MESSAGE", with line breaks of the message as spaces. Returns
// the exit code.
int ReportError(const absl::Status& status);

}  // namespace tandem::rank
