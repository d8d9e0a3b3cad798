// `tandem render`.
#pragma once

#include <istream>
#include <ostream>

#include "launcher/command/options.h"

namespace tandem::launcher {

// Renders the messages of a file (or `in`) to `out`, exactly, with no line end added. Exit code
// (exit_code.h); errors are one line on stderr.
int RunRender(const RenderOptions& options, std::istream& in, std::ostream& out);

}  // namespace tandem::launcher
