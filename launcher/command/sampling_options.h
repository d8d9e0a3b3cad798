// Options of the command line for the sampling fields (runtime/engine/sampling_fields.h).
#pragma once

#include <string_view>

#include "runtime/engine/sampling_request.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tandem::launcher {

// Adds the options of every command that samples. Parsing writes into `request`, which must
// outlive `app`.
void AddSamplingOptions(CLI::App* app, engine::SamplingRequest* request);

// Adds one that is not among them: "n" or "logprobs".
CLI::Option* AddSamplingOption(CLI::App* app, std::string_view field,
                               engine::SamplingRequest* request);

}  // namespace tandem::launcher
