// SamplingRequest as the protocol's message and back, by the table of sampling fields.
#pragma once

#include "runtime/engine/sampling_request.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {

engine::SamplingRequest SamplingFromProto(const v1::SamplingParams& message);
v1::SamplingParams SamplingToProto(const engine::SamplingRequest& request);

}  // namespace tandem::server
