#include "runtime/server/unary_call.h"

#include "runtime/server/status_details.h"

namespace tandem::server {

std::shared_ptr<UnaryCall> UnaryCall::Create(std::function<bool()> drop) {
  std::shared_ptr<UnaryCall> call(new UnaryCall(std::move(drop)));
  call->self_ = call;
  return call;
}

void UnaryCall::End(const absl::Status& status) { Finish(ToGrpcStatus(status)); }

void UnaryCall::OnCancel() {
  if (drop_()) End(absl::CancelledError("the call was cancelled or its deadline passed"));
}

}  // namespace tandem::server
