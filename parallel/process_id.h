// Which process a rank is: ranks may be threads of one.
#pragma once

#include <string>

namespace tandem::parallel {

// The same for all threads of a process, and no other's on any host.
std::string ThisProcess();

}  // namespace tandem::parallel
