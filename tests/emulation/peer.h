// Memory that other ranks have opened.
#pragma once

namespace tandem::emulation {

// It is being freed by its owner.
void NoteFree(const void* memory);

}  // namespace tandem::emulation
