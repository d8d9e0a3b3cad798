// Sampling options of the command line as the protocol's message: one way to the server and to the
// engine, with one set of ranges (runtime/server/validation.h).
#pragma once

#include "launcher/command/options.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::launcher {

v1::SamplingParams ToProto(const SamplingOptions& options);

}  // namespace tandem::launcher
