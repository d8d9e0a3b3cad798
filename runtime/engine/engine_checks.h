// What the engine refuses before it takes anything.
#pragma once

#include "absl/status/status.h"
#include "runtime/engine/engine_client.h"
#include "runtime/engine/engine_config.h"

namespace tandem::engine {

// INVALID_ARGUMENT naming the field that is out of range.
absl::Status CheckEngineConfig(const EngineConfig& config);

// INVALID_ARGUMENT for a request that no state of the engine could serve: ids out of range, a
// prompt that is empty or too long, sampling out of range, more choices than the queue has places.
absl::Status CheckRequest(const Request& request, const EngineConfig& config);

// Tokens that each choice of a checked request can have, prompt and output together.
int32_t MaxTotalTokens(const Request& request, const EngineConfig& config);

}  // namespace tandem::engine
