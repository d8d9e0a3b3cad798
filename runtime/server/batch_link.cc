#include "runtime/server/batch_link.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {

LineSocket::~LineSocket() { close(fd_); }

absl::StatusOr<std::unique_ptr<LineSocket>> LineSocket::Connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InternalError(absl::StrCat("socket path too long: ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    const std::string what = std::strerror(errno);
    if (fd >= 0) close(fd);
    return absl::UnavailableError(absl::StrCat("the batch job's coordinator has gone: ", what));
  }
  return std::make_unique<LineSocket>(fd);
}

absl::Status LineSocket::Send(const nlohmann::json& message) {
  const std::string text =
      message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  std::lock_guard lock(mutex_);
  for (size_t done = 0; done < text.size();) {
    const ssize_t count = send(fd_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::UnavailableError("the other end of the batch job has gone");
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

std::optional<nlohmann::json> LineSocket::Receive() {
  char buffer[1 << 16];
  while (true) {
    const size_t end = partial_.find('\n');
    if (end != std::string::npos) {
      nlohmann::json message = nlohmann::json::parse(partial_.substr(0, end), nullptr, false);
      partial_.erase(0, end + 1);
      if (message.is_discarded()) return std::nullopt;
      return message;
    }
    const ssize_t count = recv(fd_, buffer, sizeof(buffer), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;
    partial_.append(buffer, static_cast<size_t>(count));
  }
}

void LineSocket::Shutdown() { shutdown(fd_, SHUT_RDWR); }

absl::StatusOr<std::unique_ptr<LinkFeed>> LinkFeed::Start(const std::string& path,
                                                          const RowReader& reader) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<LineSocket> socket, LineSocket::Connect(path));
  std::unique_ptr<LinkFeed> feed(new LinkFeed(std::move(socket), reader));
  const std::optional<nlohmann::json> first = feed->socket_->Receive();
  if (!first.has_value()) return absl::UnavailableError("the batch job's coordinator has gone");
  feed->context_ = first->value("context", int64_t{0});
  feed->thread_ = std::thread([raw = feed.get()] { raw->ReceiveAll(); });
  return feed;
}

LinkFeed::~LinkFeed() {
  socket_->Shutdown();
  if (thread_.joinable()) thread_.join();
}

void LinkFeed::ReceiveAll() {
  while (std::optional<nlohmann::json> message = socket_->Receive()) {
    std::optional<Assignment> row;
    if (message->contains("text")) {
      std::string id;
      absl::StatusOr<BatchRow> read =
          reader_.Read(message->value("text", ""), message->value("line", int64_t{0}), &id);
      // The coordinator has read it before: only another model could differ.
      if (!read.ok()) break;
      row.emplace();
      row->row = *std::move(read);
      row->tokens = (*message)["tokens"].get<std::vector<std::vector<int32_t>>>();
    }
    std::lock_guard lock(mutex_);
    if (row.has_value()) {
      --wanted_;
      ++open_;
      rows_.push(*std::move(row));
    }
    if (message->contains("end")) end_ = true;
    if (message->contains("stop")) stop_ = true;
    woken_ = true;
    changed_.notify_all();
  }
  std::lock_guard lock(mutex_);
  lost_ = true;
  woken_ = true;
  changed_.notify_all();
}

void LinkFeed::KeepAhead(int64_t rows) {
  std::lock_guard lock(mutex_);
  const int64_t more = rows - open_ - wanted_;
  if (more <= 0 || end_ || stop_) return;
  wanted_ += more;
  outbox_.push_back({{"want", more}});
}

std::optional<Assignment> LinkFeed::Next() {
  std::lock_guard lock(mutex_);
  if (rows_.empty()) return std::nullopt;
  Assignment next = std::move(rows_.front());
  rows_.pop();
  return next;
}

void LinkFeed::AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) {
  std::lock_guard lock(mutex_);
  outbox_.push_back({{"k", key}, {"c", choice}, {"t", tokens}});
}

void LinkFeed::Finish(uint64_t key, bool failed, std::string line) {
  std::lock_guard lock(mutex_);
  outbox_.push_back({{"k", key}, {"failed", failed}, {"line", std::move(line)}});
  --open_;
  woken_ = true;
  changed_.notify_all();
}

void LinkFeed::Wait(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, longest, [this] { return woken_; });
  woken_ = false;
}

absl::Status LinkFeed::Flush(bool) {
  std::vector<nlohmann::json> messages;
  {
    std::lock_guard lock(mutex_);
    messages.swap(outbox_);
  }
  for (const nlohmann::json& message : messages) TANDEM_RETURN_IF_ERROR(socket_->Send(message));
  return absl::OkStatus();
}

bool LinkFeed::all_done() const {
  std::lock_guard lock(mutex_);
  return end_ && open_ == 0;
}

std::string LinkFeed::stop_reason() const {
  std::lock_guard lock(mutex_);
  if (stop_) return "the job stops";
  return lost_ && !end_ ? "the coordinator has gone" : "";
}

}  // namespace tandem::server
