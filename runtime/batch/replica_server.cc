#include "runtime/batch/replica_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <deque>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::batch {
namespace {

using internal::v1::CoordinatorMessage;
using internal::v1::ReplicaMessage;

// Until a connection has to be one of HTTP/2, and for one without a call.
constexpr int kIdleConnectionMs = 10'000;

CoordinatorMessage RowMessage(const Assignment& assignment) {
  CoordinatorMessage message;
  internal::v1::Row& row = *message.mutable_row();
  row.set_line(assignment.row.line);
  row.set_text(assignment.row.text);
  for (const std::vector<int32_t>& tokens : assignment.tokens) {
    row.add_choices()->mutable_ids()->Add(tokens.begin(), tokens.end());
  }
  return message;
}

// "" where the call has no such metadata.
std::string_view Metadata(const grpc::CallbackServerContext& context, const char* key) {
  const auto& all = context.client_metadata();
  const auto found = all.find(key);
  if (found == all.end()) return "";
  return {found->second.data(), found->second.size()};
}

// A call that is over before a message of it is read.
class RefusedCall : public grpc::ServerBidiReactor<ReplicaMessage, CoordinatorMessage> {
 public:
  explicit RefusedCall(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

// One replica's stream. Its fields belong to the server's mutex. A write is started without the
// mutex; that the link is still there then follows from `writing`, which is set before: Finish, and
// with it OnDone, waits for the write.
class ReplicaServer::Link : public grpc::ServerBidiReactor<ReplicaMessage, CoordinatorMessage> {
 public:
  Link(ReplicaServer& server, grpc::CallbackServerContext& context, int number)
      : context(context), replica(number), server_(server) {}

  void StartReading() { StartRead(&incoming_); }

  void OnReadDone(bool ok) override {
    if (ok) {
      server_.Receive(*this, incoming_);
      incoming_.Clear();
      StartRead(&incoming_);
      return;
    }
    bool finish = false;
    {
      std::lock_guard lock(server_.mutex_);
      read_ended = true;
      finish = !writing;
    }
    if (finish) Finish(grpc::Status::OK);
  }

  void OnWriteDone(bool ok) override {
    const CoordinatorMessage* next = nullptr;
    bool finish = false;
    {
      std::lock_guard lock(server_.mutex_);
      outbox.pop_front();
      if (!ok || read_ended) outbox.clear();
      if (!outbox.empty()) next = &outbox.front();
      writing = next != nullptr;
      finish = read_ended;
    }
    if (next != nullptr) StartWrite(next);
    if (finish) Finish(grpc::Status::OK);
  }

  void OnDone() override {
    server_.Forget(*this);
    delete this;
  }

  grpc::CallbackServerContext& context;
  const int replica;
  int64_t credit = 0;               // rows that it may be sent
  std::map<uint64_t, int> rows;     // with it: their keys and numbers of choices
  int64_t steps = -1;               // as it last reported
  Clock::time_point last_progress;  // when it had a new step, or its first row
  bool cancelled = false;
  std::deque<CoordinatorMessage> outbox;  // the first is being written where `writing`
  bool writing = false;
  bool read_ended = false;

 private:
  ReplicaServer& server_;
  ReplicaMessage incoming_;
};

class ReplicaServer::Service : public internal::v1::ReplicaService::CallbackService {
 public:
  explicit Service(ReplicaServer& server) : server_(server) {}
  grpc::ServerBidiReactor<ReplicaMessage, CoordinatorMessage>* Connect(
      grpc::CallbackServerContext* context) override {
    grpc::Status refused;
    Link* link = server_.Open(*context, refused);
    if (link == nullptr) return new RefusedCall(refused);
    return link;
  }

 private:
  ReplicaServer& server_;
};

ReplicaServer::ReplicaServer(BatchCoordinator& coordinator, const Options& options)
    : coordinator_(coordinator), options_(options), service_(std::make_unique<Service>(*this)) {}

absl::StatusOr<std::unique_ptr<ReplicaServer>> ReplicaServer::Start(BatchCoordinator& coordinator,
                                                                    const Options& options) {
  std::unique_ptr<ReplicaServer> server(new ReplicaServer(coordinator, options));
  TANDEM_RETURN_IF_ERROR(server->Listen());
  return server;
}

absl::Status ReplicaServer::Listen() {
  address_.hosts =
      options_.for_other_hosts ? OwnAddresses() : std::vector<std::string>{"127.0.0.1"};
  if (address_.hosts.empty()) {
    return absl::UnavailableError("this host has no address at which other hosts could reach it");
  }
  TANDEM_ASSIGN_OR_RETURN(address_.token, MakeToken());
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options_.for_other_hosts ? "[::]:0" : "127.0.0.1:0",
                           grpc::InsecureServerCredentials(), &address_.port);
  builder.RegisterService(service_.get());
  builder.SetMaxReceiveMessageSize(options_.max_message_bytes);
  builder.SetMaxSendMessageSize(options_.max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kIdleConnectionMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleConnectionMs);
  // Not gRPC's own pings, which a process that is only stopped does not answer: their arguments set
  // TCP_USER_TIMEOUT, and Ping messages are what a host has to acknowledge.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, std::numeric_limits<int>::max() - 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             static_cast<int>(std::chrono::milliseconds(kLinkHostTimeout).count()));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || address_.port == 0) {
    return absl::UnavailableError("cannot listen for the replicas of the batch job");
  }
  return absl::OkStatus();
}

ReplicaServer::~ReplicaServer() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  // Cancels all calls and waits for their OnDone.
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

ReplicaServer::Link* ReplicaServer::Open(grpc::CallbackServerContext& context,
                                         grpc::Status& refused) {
  if (!SameToken(Metadata(context, kTokenKey), address_.token)) {
    refused = {grpc::StatusCode::UNAUTHENTICATED, "the token is not that of this batch job"};
    return nullptr;
  }
  int replica = -1;
  const std::string_view number = Metadata(context, kReplicaKey);
  if (!absl::SimpleAtoi(absl::string_view(number.data(), number.size()), &replica) ||
      replica < (options_.has_own ? 1 : 0) || replica >= options_.replicas) {
    refused = {grpc::StatusCode::INVALID_ARGUMENT,
               absl::StrCat(kReplicaKey, ": found no number of a replica, expected one below ",
                            options_.replicas)};
    return nullptr;
  }
  auto* link = new Link(*this, context, replica);
  CoordinatorMessage welcome;
  welcome.mutable_welcome()->set_context(options_.context);
  welcome.mutable_welcome()->set_time(options_.time.ToText());
  std::vector<Send> sends;
  {
    std::lock_guard lock(mutex_);
    links_.push_back(link);
    Queue(*link, std::move(welcome), sends);
    if (last_message_.has_value()) Queue(*link, *last_message_, sends);
  }
  StartWrites(sends);
  link->StartReading();
  return link;
}

void ReplicaServer::Receive(Link& link, const ReplicaMessage& message) {
  switch (message.message_case()) {
    case ReplicaMessage::kCredit: {
      std::lock_guard lock(mutex_);
      link.credit += message.credit().rows();
      break;
    }
    case ReplicaMessage::kHeartbeat: {
      std::lock_guard lock(mutex_);
      if (message.heartbeat().steps() != link.steps) link.last_progress = Clock::now();
      link.steps = message.heartbeat().steps();
      return;
    }
    case ReplicaMessage::kTokens: {
      const internal::v1::Tokens& tokens = message.tokens();
      {
        std::lock_guard lock(mutex_);
        const auto row = link.rows.find(tokens.row());
        if (row == link.rows.end()) return;  // not a row of this replica
        if (tokens.choice() < 0 || tokens.choice() >= row->second) return;
      }
      coordinator_.AddTokens(tokens.row(), tokens.choice(),
                             {tokens.ids().begin(), tokens.ids().end()});
      return;
    }
    case ReplicaMessage::kFinished: {
      const internal::v1::FinishedRow& finished = message.finished();
      {
        std::lock_guard lock(mutex_);
        if (link.rows.erase(finished.row()) == 0) return;  // not a row of this replica
      }
      coordinator_.Finish(finished.row(), finished.failed(), finished.line());
      break;
    }
    case ReplicaMessage::MESSAGE_NOT_SET:
      return;
  }
  coordinator_.Wake();
}

void ReplicaServer::Forget(Link& link) {
  {
    std::lock_guard lock(mutex_);
    links_.remove(&link);
    for (const auto& [key, choices] : link.rows) coordinator_.Return(key);
    CountDead(link.replica);
  }
  coordinator_.Wake();
}

int ReplicaServer::replicas() const {
  std::lock_guard lock(mutex_);
  return options_.replicas - (options_.has_own ? 1 : 0) - static_cast<int>(dead_.size());
}

absl::Status ReplicaServer::TakeRows(RowSource& source, int64_t most) {
  std::vector<Send> sends;
  {
    std::lock_guard lock(mutex_);
    const bool ping = Clock::now() >= next_ping_;
    if (ping) next_ping_ = Clock::now() + kHeartbeat;
    for (Link* link : links_) {
      if (link->cancelled || link->read_ended) continue;
      if (IsStalled(*link)) {
        PrintLine(
            absl::StrCat("tandem: replica ", link->replica, " has rows and has made no step for ",
                         std::chrono::duration_cast<std::chrono::seconds>(options_.stall).count(),
                         " s: it has stalled"));
        stalled_.push_back(link->replica);
        link->cancelled = true;
        link->context.TryCancel();  // OnDone follows on another thread, and returns the rows
        continue;
      }
      if (ping && link->outbox.empty()) {
        CoordinatorMessage message;
        message.mutable_ping();
        Queue(*link, std::move(message), sends);
      }
      GiveRows(*link, source, most, sends);
    }
  }
  StartWrites(sends);
  return absl::OkStatus();
}

bool ReplicaServer::IsStalled(const Link& link) const {
  return !link.rows.empty() && Clock::now() - link.last_progress > options_.stall;
}

void ReplicaServer::GiveRows(Link& link, RowSource& source, int64_t most,
                             std::vector<Send>& sends) {
  while (link.credit > 0 && static_cast<int64_t>(link.rows.size()) < most) {
    const std::optional<Assignment> next = source.Next();
    if (!next.has_value()) return;
    --link.credit;
    if (link.rows.empty()) link.last_progress = Clock::now();
    link.rows.emplace(next->row.key, static_cast<int>(next->tokens.size()));
    Queue(link, RowMessage(*next), sends);
  }
}

void ReplicaServer::Queue(Link& link, CoordinatorMessage message, std::vector<Send>& sends) {
  link.outbox.push_back(std::move(message));
  if (link.writing) return;  // OnWriteDone goes on with it
  link.writing = true;
  sends.push_back({&link, &link.outbox.front()});
}

void ReplicaServer::StartWrites(const std::vector<Send>& sends) {
  for (const Send& send : sends) send.link->StartWrite(send.message);
}

std::vector<int> ReplicaServer::TakeStalled() {
  std::lock_guard lock(mutex_);
  return std::exchange(stalled_, {});
}

void ReplicaServer::ReportDead(int replica) {
  std::lock_guard lock(mutex_);
  for (Link* link : links_) {
    if (link->replica != replica) continue;
    link->cancelled = true;
    link->context.TryCancel();
  }
  CountDead(replica);
}

void ReplicaServer::CountDead(int replica) {
  if (last_message_.has_value() || closing_ || !dead_.insert(replica).second) return;
  PrintLine(absl::StrCat("tandem: replica ", replica, " has died, ",
                         options_.replicas - static_cast<int>(dead_.size()), " of ",
                         options_.replicas, " are left; its rows go to them"));
}

int ReplicaServer::dead() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(dead_.size());
}

void ReplicaServer::End(bool all_done) {
  CoordinatorMessage message;
  if (all_done) {
    message.mutable_end();
  } else {
    message.mutable_stop();
  }
  std::vector<Send> sends;
  {
    std::lock_guard lock(mutex_);
    last_message_ = message;
    for (Link* link : links_) {
      if (!link->cancelled && !link->read_ended) Queue(*link, message, sends);
    }
  }
  StartWrites(sends);
}

}  // namespace tandem::batch
