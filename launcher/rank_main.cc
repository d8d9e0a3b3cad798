// Placeholder: the composition of world, model, engine and front goes here.
#include "launcher/rank_main.h"

#include "launcher/exit_code.h"

namespace tandem::launcher {

int RunServeRank(const ServeOptions&) {
  return ReportError(absl::UnimplementedError("serve is not built in"));
}

int RunGenerateRank(const GenerateOptions&) {
  return ReportError(absl::UnimplementedError("generate is not built in"));
}

}  // namespace tandem::launcher
