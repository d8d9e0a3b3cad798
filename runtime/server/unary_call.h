// A unary call that a thread of the PreparationPool answers.
//
// Lifetime: as GenerateCall, it owns itself from Create until gRPC's OnDone.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "grpcpp/support/server_callback.h"

namespace tandem::server {

class UnaryCall final : public grpc::ServerUnaryReactor,
                        public std::enable_shared_from_this<UnaryCall> {
 public:
  // `drop` takes the call's work out of the pool: true if it had not begun. It is asked when the
  // client cancels or its deadline passes.
  static std::shared_ptr<UnaryCall> Create(std::function<bool()> drop);

  // Once; not for a call whose work was dropped.
  void End(const absl::Status& status);

 private:
  explicit UnaryCall(std::function<bool()> drop) : drop_(std::move(drop)) {}

  void OnCancel() override;
  void OnDone() override { self_.reset(); }  // may be the last reference

  const std::function<bool()> drop_;
  std::shared_ptr<UnaryCall> self_;
};

}  // namespace tandem::server
