// Identifies the process of a rank: in tests, ranks are threads of one process.
#pragma once

#include <string>

namespace tandem::parallel {

// The same for all threads of a process, and different for any other process on any host.
std::string ThisProcess();

}  // namespace tandem::parallel
