// `tandem tokenize` and `tandem detokenize`: standard input to standard output, with nothing of the
// model but its tokenizer.json.
#pragma once

#include <istream>
#include <ostream>

#include "launcher/command/options.h"

namespace tandem::launcher {

// Exit codes (exit_code.h); errors are one line on stderr.
int RunTokenize(const TokenizeOptions& options, std::istream& in, std::ostream& out);
int RunDetokenize(const DetokenizeOptions& options, std::istream& in, std::ostream& out);

}  // namespace tandem::launcher
