// Identifies this build of the program: all ranks of a world must run the same one.
#pragma once

#include <string>

namespace tandem::rank {

// The version and the linker's digest of the program (the GNU build id note), such as
// "0.1.0 5f3c..."; the version alone where the linker wrote none.
std::string BuildId();

}  // namespace tandem::rank
