// `tandem eval` on a rank: loads the reference, where one is asked for, then the model, and runs
// the text through each.
#pragma once

#include "launcher/command/options.h"

namespace tandem::launcher {

// As RunGenerateRank of rank_main.h.
int RunEvalRank(const EvalOptions& options);

}  // namespace tandem::launcher
