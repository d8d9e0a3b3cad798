// `tandem quantize`: a folder with the same model in fewer bits, as the
// compressed-tensors package stores it. In one process, without ranks.
#pragma once

#include "launcher/command/options.h"

namespace tandem::launcher {

// Writes OUT.partial and renames it at the end, so that OUT is whole or not
// there. The exit code; errors are one line on stderr.
int RunQuantize(const QuantizeOptions& options);

}  // namespace tandem::launcher
