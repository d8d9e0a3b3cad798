// Where tests find the project's files and the materials beside it.
#pragma once

#include <string>

namespace tandem {

// A path inside the project's source tree.
std::string SourcePath(const std::string& path);

// A path in the folder of materials beside the project (or TANDEM_SHARED); empty where it does
// not exist, and then the test skips.
std::string SharedPath(const std::string& path);

}  // namespace tandem
