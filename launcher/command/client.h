// `tandem client`: one prompt to a server, the answer to stdout as it comes.
#pragma once

#include "launcher/command/options.h"

namespace tandem::launcher {

// Exit code (exit_code.h). An error is one line on stderr with the status code's name.
int RunClient(const ClientOptions& options);

}  // namespace tandem::launcher
