// Records operations once and repeats them at little cost (CUDA graphs).
#pragma once

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::kernels {

// The operations that Recorder::Record kept.
class Recording {
 public:
  virtual ~Recording() = default;
};

class Recorder {
 public:
  virtual ~Recorder() = default;

  // Calls `body` and keeps the operations that it issues, without doing them. None may be a copy,
  // EmbedTokens or a packing. Call `body` once before, and wait until its operations are done: what
  // the backend makes on first use must exist.
  virtual absl::StatusOr<std::unique_ptr<Recording>> Record(
      absl::FunctionRef<absl::Status()> body) = 0;
  // Repeats the operations on the same pointers.
  virtual void Replay(const Recording& recording) = 0;
};

}  // namespace tandem::kernels
