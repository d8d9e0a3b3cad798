#include "runtime/server/drain_signals.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace tandem::server {
namespace {

constexpr int kSignals[] = {SIGUSR1, SIGTERM, SIGINT};

}  // namespace

absl::StatusOr<std::unique_ptr<DrainSignals>> DrainSignals::Block() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  const int signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (signal_fd < 0 || wake_fd < 0) {
    const int error = errno;
    if (signal_fd >= 0) close(signal_fd);
    if (wake_fd >= 0) close(wake_fd);
    return absl::InternalError(absl::StrCat("signalfd: ", std::strerror(error)));
  }
  return std::unique_ptr<DrainSignals>(new DrainSignals(signal_fd, wake_fd));
}

DrainSignals::~DrainSignals() {
  close(signal_fd_);
  close(wake_fd_);
}

int DrainSignals::Wait() {
  while (true) {
    pollfd fds[] = {{wake_fd_, POLLIN, 0}, {signal_fd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;  // EINTR
    if (fds[0].revents != 0) return 0;
    signalfd_siginfo info;
    if (read(signal_fd_, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      return static_cast<int>(info.ssi_signo);
    }
  }
}

void DrainSignals::Wake() {
  const uint64_t one = 1;
  // Fails only when the counter is full, and then Wait has been woken already.
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

void DieOfDrainSignal() {
  std::signal(SIGUSR1, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  std::raise(SIGUSR1);
  std::abort();  // raise does not return
}

void IgnoreDrainSignals() {
  for (const int signal : kSignals) std::signal(signal, SIG_IGN);
}

}  // namespace tandem::server
