// The scalar specification of RopeAndCache and PagedAttention.
#pragma once

#include "kernels/backend.h"

namespace tandem::kernels {

void RefRopeAndCache(const RopeAndCacheArgs& args);
void RefPagedAttention(const PagedAttentionArgs& args);

}  // namespace tandem::kernels
