// What a rank does with its options: joins the world that it was started in (or is a world of one),
// loads, and works until the end. Exit codes as in exit_code.h; an error is reported by one rank,
// all end together.
//
// The caller has called DieWithParent, and started no threads.
#pragma once

#include "launcher/command/options.h"

namespace tandem::launcher {

int RunServeRank(const ServeOptions& options);
int RunGenerateRank(const GenerateOptions& options);
int RunBenchRank(const BenchOptions& options);

}  // namespace tandem::launcher
