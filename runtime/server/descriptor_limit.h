// How many files and connections this process may have open (RLIMIT_NOFILE).
#pragma once

namespace tandem::server {

// Raises the soft limit to the hard one and returns what is allowed now. Call it in the process
// that serves: programs that it starts inherit the limit, and select() cannot watch descriptors
// above 1023.
int RaiseDescriptorLimit();

// What is allowed now.
int DescriptorLimit();

}  // namespace tandem::server
