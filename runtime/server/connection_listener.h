// Accepts the connections of one address and hands each to the library that serves it.
//
//   auto listener = ConnectionListener::Open(options);   // the port is taken; connections wait
//   (*listener)->Start([](int fd, const sockaddr_storage& peer, socklen_t size) { ... });
//   (*listener)->Stop();                                 // the port is closed
//
// A server that leaves this to gRPC or libmicrohttpd takes any number of connections, and stops
// accepting for ever when it has run out of descriptors once. Here connections are limited, in all
// and per peer; what exceeds a limit is closed at once. If descriptors run out all the same, one
// that is kept in reserve serves to accept and close what waits, so clients see an end and not
// silence.
//
// One thread accepts and sleeps in poll. A second one is the self-test: it sleeps until connections
// arrive, and if some wait for kPatience while none is accepted, it opens what does not listen any
// more and starts a new thread for accepting. Neither wakes while nobody connects.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/server/connection_table.h"
#include "runtime/server/listen_address.h"

namespace tandem::server {

struct ListenerOptions {
  std::string listen;
  AddressForms forms = AddressForms::kTcpOrUnix;
  ConnectionLimits limits;
  // Called on the listener's thread when a connection was closed because of a limit: the server may
  // end connections that it can spare. May be empty.
  std::function<void()> on_full;
  // After a wait of this length without an accepted connection, the self-test acts.
  std::chrono::milliseconds patience{5'000};
};

// Takes an accepted connection, which is non-blocking and closed on exec; it must close it in the
// end. Called on the listener's thread.
using TakeConnection =
    std::function<void(int fd, const sockaddr_storage& peer, socklen_t peer_size)>;

class ConnectionListener {
 public:
  // Errors as ListeningSockets::Open. The limits shrink with the limit of open files
  // (RLIMIT_NOFILE), a part of which is left for everything else.
  static absl::StatusOr<std::unique_ptr<ConnectionListener>> Open(const ListenerOptions& options);

  ~ConnectionListener();
  ConnectionListener(const ConnectionListener&) = delete;
  ConnectionListener& operator=(const ConnectionListener&) = delete;

  // Once only.
  void Start(TakeConnection take);

  // Closes the port. Returns when `take` is not called any more. Idempotent, from one thread.
  void Stop();

  int port() const { return port_; }
  const ConnectionLimits& limits() const { return limits_; }

  // Counts for tests and metrics.
  int open_connections() { return table_.Open(); }
  uint64_t accepted() const { return accepted_; }
  uint64_t refused() const { return refused_; }
  std::vector<int> listening_fds();

 private:
  using Clock = std::chrono::steady_clock;
  enum class Accepted { kOne, kNothing, kNoDescriptor, kBroken };

  ConnectionListener(const ListenerOptions& options, ConnectionLimits limits,
                     ListeningSockets sockets);

  void Accept(int generation);  // a thread
  void SelfTest();              // a thread
  bool Outdated(int generation) const { return stopping_ || generation != generation_; }
  Accepted AcceptOne(int listening);
  void AcceptWaiting(int listening);
  void Hand(int fd, const sockaddr_storage& peer, socklen_t peer_size);
  void Refuse(int fd, const std::string& why);
  bool ShedOne(int listening);
  void Repair();
  bool SomebodyWaits();
  bool Pause(std::chrono::milliseconds time);  // true: Stop was called
  void Watch();
  void StartAccepting();

  const std::string listen_;
  const std::chrono::milliseconds patience_;
  const std::function<void()> on_full_;
  const ConnectionLimits limits_;
  ConnectionTable table_;
  TakeConnection take_;
  int port_ = 0;

  std::mutex mutex_;  // of sockets_ and accepting_
  ListeningSockets sockets_;
  std::vector<std::thread> accepting_;  // the last one accepts; the others were stuck
  std::thread self_test_;

  std::mutex shed_mutex_;
  int reserve_ = -1;  // a descriptor that can be given up
  const int stop_fd_;
  const int watch_fd_;  // epoll of the listening sockets, edge-triggered

  std::atomic<bool> stopping_{false};
  std::atomic<int> generation_{0};
  std::atomic<uint64_t> accepted_{0};
  std::atomic<uint64_t> refused_{0};
  std::mutex log_mutex_;
  Clock::time_point next_log_;
};

}  // namespace tandem::server
