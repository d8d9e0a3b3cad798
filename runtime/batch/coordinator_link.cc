#include "runtime/batch/coordinator_link.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/batch/timing.h"

namespace tandem::batch {
namespace {

using internal::v1::CoordinatorMessage;
using internal::v1::ReplicaMessage;

constexpr int kConnectMs = 3000;  // to one address
constexpr std::chrono::seconds kWelcomeWait{10};
constexpr std::chrono::seconds kCloseWait{5};

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& host, int port) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxLinkMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxLinkMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // The first attempt, of which there is only one, may take so long.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  // Sets TCP_USER_TIMEOUT, without gRPC's own pings (replica_server.cc).
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, std::numeric_limits<int>::max() - 1);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                   static_cast<int>(std::chrono::milliseconds(kLinkHostTimeout).count()));
  const bool is_ipv6 = absl::StrContains(host, ':');
  return grpc::CreateCustomChannel(
      is_ipv6 ? absl::StrCat("ipv6:[", host, "]:", port) : absl::StrCat("ipv4:", host, ":", port),
      grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorLink>> CoordinatorLink::Connect(
    const CoordinatorAddress& address, int replica, const RowReader& reader) {
  std::string tried;
  for (const std::string& host : address.hosts) {
    std::unique_ptr<CoordinatorLink> link(
        new CoordinatorLink(MakeChannel(host, address.port), reader));
    const absl::Status opened = link->Open(address.token, replica);
    if (opened.ok()) return link;
    if (!absl::IsUnavailable(opened)) return opened;
    absl::StrAppend(&tried, tried.empty() ? "" : ", ", host, " ", std::string(opened.message()));
  }
  return absl::UnavailableError(
      absl::StrCat("the coordinator of the batch job cannot be reached: ", tried));
}

absl::Status CoordinatorLink::Open(const std::string& token, int replica) {
  call_.AddMetadata(kTokenKey, token);
  call_.AddMetadata(kReplicaKey, absl::StrCat(replica));
  stream_ = internal::v1::ReplicaService::NewStub(channel_)->Connect(&call_);
  thread_ = std::thread([this] { ReceiveAll(); });
  bool answered = false;
  {
    std::unique_lock lock(mutex_);
    answered =
        changed_.wait_for(lock, kWelcomeWait, [this] { return context_.has_value() || closed_; });
    if (context_.has_value()) return absl::OkStatus();
  }
  if (!answered) call_.TryCancel();
  thread_.join();
  const grpc::Status status = stream_->Finish();
  stream_ = nullptr;
  if (!answered) {
    return absl::UnavailableError(
        absl::StrCat("does not answer within ", kWelcomeWait.count(), " s"));
  }
  if (status.ok()) return absl::UnavailableError("ends the connection");
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

CoordinatorLink::~CoordinatorLink() {
  if (stream_ == nullptr) return;
  stream_->WritesDone();
  {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kCloseWait, [this] { return closed_; })) call_.TryCancel();
  }
  thread_.join();
  (void)stream_->Finish();
}

void CoordinatorLink::ReceiveAll() {
  CoordinatorMessage message;
  while (stream_->Read(&message)) {
    if (Receive(message)) continue;
    call_.TryCancel();
    break;
  }
  std::lock_guard lock(mutex_);
  closed_ = true;
  woken_ = true;
  changed_.notify_all();
}

bool CoordinatorLink::Receive(const CoordinatorMessage& message) {
  if (message.has_welcome()) {
    absl::StatusOr<PromptTime> time = PromptTime::FromText(message.welcome().time());
    if (!time.ok()) return false;
    reader_.time = *std::move(time);
  }
  std::optional<Assignment> assignment;
  if (message.has_row()) {
    std::string id;
    absl::StatusOr<BatchRow> row = reader_.Read(message.row().text(), message.row().line(), &id);
    // The coordinator has read it before: only a model in another state makes a difference.
    if (!row.ok()) return false;
    assignment.emplace();
    assignment->row = *std::move(row);
    for (const internal::v1::ChoiceTokens& choice : message.row().choices()) {
      assignment->tokens.emplace_back(choice.ids().begin(), choice.ids().end());
    }
  }
  std::lock_guard lock(mutex_);
  if (assignment.has_value()) {
    --credit_;
    ++open_;
    rows_.push(*std::move(assignment));
  }
  if (message.has_welcome()) context_ = message.welcome().context();
  if (message.has_end()) end_ = true;
  if (message.has_stop()) stop_ = true;
  woken_ = true;
  changed_.notify_all();
  return true;
}

int64_t CoordinatorLink::context() const {
  std::lock_guard lock(mutex_);
  return context_.value_or(0);
}

void CoordinatorLink::ReportWorker(int64_t rows, int64_t steps) {
  std::lock_guard lock(mutex_);
  const int64_t more = rows - open_ - credit_;
  if (more > 0 && !end_ && !stop_) {
    credit_ += more;
    outbox_.emplace_back().mutable_credit()->set_rows(more);
  }
  if (Clock::now() < next_heartbeat_) return;
  next_heartbeat_ = Clock::now() + kHeartbeat;
  outbox_.emplace_back().mutable_heartbeat()->set_steps(steps);
}

std::optional<Assignment> CoordinatorLink::Next() {
  std::lock_guard lock(mutex_);
  if (rows_.empty()) return std::nullopt;
  Assignment next = std::move(rows_.front());
  rows_.pop();
  return next;
}

void CoordinatorLink::AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) {
  std::lock_guard lock(mutex_);
  internal::v1::Tokens& message = *outbox_.emplace_back().mutable_tokens();
  message.set_row(key);
  message.set_choice(choice);
  message.mutable_ids()->Add(tokens.begin(), tokens.end());
}

void CoordinatorLink::Finish(uint64_t key, bool failed, std::string line) {
  std::lock_guard lock(mutex_);
  internal::v1::FinishedRow& message = *outbox_.emplace_back().mutable_finished();
  message.set_row(key);
  message.set_failed(failed);
  message.set_line(std::move(line));
  --open_;
  woken_ = true;
  changed_.notify_all();
}

void CoordinatorLink::Wait(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, longest, [this] { return woken_; });
  woken_ = false;
}

absl::Status CoordinatorLink::Flush(bool /*with_tokens*/) {
  std::vector<ReplicaMessage> messages;
  {
    std::lock_guard lock(mutex_);
    messages.swap(outbox_);
  }
  for (const ReplicaMessage& message : messages) {
    if (!stream_->Write(message)) break;  // ReceiveAll notices the end of the stream, too
  }
  return absl::OkStatus();
}

int64_t CoordinatorLink::rows_left() const { return std::numeric_limits<int64_t>::max(); }

bool CoordinatorLink::all_done() const {
  std::lock_guard lock(mutex_);
  return end_ && open_ == 0;
}

std::string CoordinatorLink::stop_reason() const {
  std::lock_guard lock(mutex_);
  if (stop_) return "the job stops";
  return closed_ && !end_ ? "the coordinator has gone" : "";
}

}  // namespace tandem::batch
