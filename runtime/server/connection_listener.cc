#include "runtime/server/connection_listener.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/server/descriptor_limit.h"

namespace tandem::server {
namespace {

// Left for everything that is no connection: weights, MPI, logs, other ports.
constexpr int kOtherDescriptors = 256;
// Accepted from one socket before the next one has its turn.
constexpr int kBatch = 64;
// Between tries while the system has no descriptor or memory.
constexpr std::chrono::milliseconds kShortPause{20};
// Between tries to open a port again.
constexpr std::chrono::milliseconds kLongPause{1'000};
// Of one listener, most of them stuck.
constexpr int kMaxThreads = 8;
// Refusals are logged this often at most.
constexpr std::chrono::seconds kLogInterval{60};

int OpenReserve() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

ConnectionLimits LimitsThatFit(const ListenerOptions& options) {
  ConnectionLimits limits = options.limits;
  const int descriptors = DescriptorLimit();
  const int fit = std::max(1, descriptors - std::min(kOtherDescriptors, descriptors / 2));
  if (limits.all > fit) {
    spdlog::warn(
        "{}: at most {} connections instead of {}, because this process may open {} files "
        "(ulimit -n)",
        options.listen, fit, limits.all, descriptors);
    // One peer keeps its share.
    limits.per_peer =
        std::max(1, static_cast<int>(static_cast<int64_t>(limits.per_peer) * fit / limits.all));
    limits.all = fit;
  }
  limits.per_peer = std::min(limits.per_peer, limits.all);
  return limits;
}

bool OutOfDescriptors(int error) { return error == EMFILE || error == ENFILE; }

// The listening socket itself is at fault, not the connection that was to be accepted.
bool SocketIsBroken(int error) {
  return error == EINVAL || error == EBADF || error == ENOTSOCK || error == EOPNOTSUPP;
}

}  // namespace

ConnectionListener::ConnectionListener(const ListenerOptions& options, ConnectionLimits limits,
                                       ListeningSockets sockets)
    : listen_(WithPort(options.listen, sockets.port())),
      patience_(options.patience),
      on_full_(options.on_full),
      limits_(limits),
      table_(limits),
      port_(sockets.port()),
      sockets_(std::move(sockets)),
      reserve_(OpenReserve()),
      stop_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      watch_fd_(epoll_create1(EPOLL_CLOEXEC)) {}

absl::StatusOr<std::unique_ptr<ConnectionListener>> ConnectionListener::Open(
    const ListenerOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(ListeningSockets sockets,
                          ListeningSockets::Open(options.listen, options.forms));
  std::unique_ptr<ConnectionListener> listener(
      new ConnectionListener(options, LimitsThatFit(options), std::move(sockets)));
  if (listener->stop_fd_ >= 0 && listener->watch_fd_ >= 0 && listener->reserve_ >= 0) {
    return listener;
  }
  return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen,
                                             ": no more files can be opened (ulimit -n is ",
                                             DescriptorLimit(), ")"));
}

ConnectionListener::~ConnectionListener() {
  Stop();
  for (const int fd : {reserve_, stop_fd_, watch_fd_}) {
    if (fd >= 0) close(fd);
  }
}

void ConnectionListener::Start(TakeConnection take) {
  TANDEM_CHECK(take_ == nullptr && !stopping_);
  take_ = std::move(take);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = stop_fd_;
  epoll_ctl(watch_fd_, EPOLL_CTL_ADD, stop_fd_, &event);
  std::lock_guard lock(mutex_);
  Watch();
  StartAccepting();
  self_test_ = std::thread(&ConnectionListener::SelfTest, this);
}

void ConnectionListener::Stop() {
  stopping_ = true;
  const uint64_t one = 1;
  // Never read: all threads see it, whenever they come to look.
  [[maybe_unused]] const ssize_t written = write(stop_fd_, &one, sizeof(one));
  if (self_test_.joinable()) self_test_.join();  // first: it starts threads
  for (std::thread& thread : accepting_) {
    if (thread.joinable()) thread.join();
  }
  std::lock_guard lock(mutex_);
  sockets_.Close();
}

std::vector<int> ConnectionListener::listening_fds() {
  std::lock_guard lock(mutex_);
  return sockets_.fds();
}

// From now on each connection that arrives wakes the self-test. With the lock held.
void ConnectionListener::Watch() {
  for (const int fd : sockets_.fds()) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    event.data.fd = fd;
    epoll_ctl(watch_fd_, EPOLL_CTL_ADD, fd, &event);
  }
}

// With the lock held.
void ConnectionListener::StartAccepting() {
  const int generation = ++generation_;
  accepting_.emplace_back(&ConnectionListener::Accept, this, generation);
}

void ConnectionListener::Accept(int generation) {
  while (!Outdated(generation)) {
    std::vector<pollfd> polled{{stop_fd_, POLLIN, 0}};
    for (const int fd : listening_fds()) polled.push_back({fd, POLLIN, 0});
    if (poll(polled.data(), polled.size(), -1) < 0) continue;  // EINTR
    for (size_t i = 1; i < polled.size() && !Outdated(generation); ++i) {
      if (polled[i].revents != 0) AcceptWaiting(polled[i].fd);
    }
  }
}

void ConnectionListener::AcceptWaiting(int listening) {
  for (int i = 0; i < kBatch && !stopping_; ++i) {
    switch (AcceptOne(listening)) {
      case Accepted::kOne:
        break;
      case Accepted::kNothing:
        return;
      case Accepted::kNoDescriptor:
        if (!ShedOne(listening)) Pause(kShortPause);
        break;
      case Accepted::kBroken:
        Repair();
        return;
    }
  }
}

ConnectionListener::Accepted ConnectionListener::AcceptOne(int listening) {
  sockaddr_storage peer{};
  socklen_t size = sizeof(peer);
  const int fd =
      accept4(listening, reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) {
    ++accepted_;
    Hand(fd, peer, size);
    return Accepted::kOne;
  }
  if (OutOfDescriptors(errno)) return Accepted::kNoDescriptor;
  if (SocketIsBroken(errno)) return Accepted::kBroken;
  if (errno == ENOBUFS || errno == ENOMEM) Pause(kShortPause);
  // Also errors of the one connection (ECONNABORTED and others), which is gone; poll reports
  // whether there is another.
  return Accepted::kNothing;
}

void ConnectionListener::Hand(int fd, const sockaddr_storage& peer, socklen_t peer_size) {
  switch (table_.Add(fd, peer)) {
    case ConnectionTable::Verdict::kTaken:
      take_(fd, peer, peer_size);
      return;
    case ConnectionTable::Verdict::kTooMany:
      Refuse(fd, absl::StrCat(limits_.all, " are open, which is the limit"));
      return;
    case ConnectionTable::Verdict::kTooManyOfPeer:
      Refuse(fd, absl::StrCat("one address has ", limits_.per_peer, ", which is its limit"));
      return;
  }
}

void ConnectionListener::Refuse(int fd, const std::string& why) {
  close(fd);
  ++refused_;
  if (on_full_) on_full_();
  std::lock_guard lock(log_mutex_);
  const Clock::time_point now = Clock::now();
  if (now < next_log_) return;
  next_log_ = now + kLogInterval;
  spdlog::warn("{}: new connections are closed: {} ({} open, {} closed so far)", listen_, why,
               table_.Open(), refused_.load());
}

// Accepts a connection with the reserved descriptor and closes it. False: that was not possible.
bool ConnectionListener::ShedOne(int listening) {
  std::lock_guard lock(shed_mutex_);
  if (reserve_ < 0) {
    // Another thread of the process took the descriptor while it was free.
    reserve_ = OpenReserve();
    if (reserve_ < 0) return false;
  }
  close(std::exchange(reserve_, -1));
  const int fd = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) {
    ++accepted_;
    Refuse(fd, "this process can open no more files (ulimit -n)");
  }
  reserve_ = OpenReserve();
  return fd >= 0;
}

void ConnectionListener::Repair() {
  bool logged = false;
  do {
    absl::Status repaired;
    {
      std::lock_guard lock(mutex_);
      repaired = sockets_.Repair();
      if (repaired.ok()) Watch();
    }
    if (repaired.ok()) {
      spdlog::warn("{}: the socket had stopped listening; it is open again", listen_);
      return;
    }
    if (!std::exchange(logged, true)) {
      spdlog::error("{}; trying again", std::string(repaired.message()));
    }
  } while (!Pause(kLongPause));
}

bool ConnectionListener::SomebodyWaits() {
  std::vector<pollfd> polled;
  for (const int fd : listening_fds()) polled.push_back({fd, POLLIN, 0});
  return poll(polled.data(), polled.size(), 0) > 0;
}

bool ConnectionListener::Pause(std::chrono::milliseconds time) {
  pollfd stop{stop_fd_, POLLIN, 0};
  return poll(&stop, 1, static_cast<int>(time.count())) > 0;
}

void ConnectionListener::SelfTest() {
  int threads = 1;
  while (!stopping_) {
    epoll_event event;
    if (epoll_wait(watch_fd_, &event, 1, -1) < 0) continue;  // EINTR
    // Somebody connected. As long as somebody waits, there must be progress.
    do {
      const uint64_t before = accepted_;
      if (Pause(patience_)) return;
      if (accepted_ != before || !SomebodyWaits() || threads >= kMaxThreads) continue;
      ++threads;
      spdlog::error("{}: connections wait, and none was accepted for {} ms; accepting anew",
                    listen_, patience_.count());
      std::lock_guard lock(mutex_);
      StartAccepting();
    } while (SomebodyWaits());
  }
}

}  // namespace tandem::server
