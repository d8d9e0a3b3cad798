#include "launcher/world/output_relay.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace tandem::launcher {
namespace {

bool WriteAll(int descriptor, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t written = write(descriptor, data, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    size -= static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

OutputRelay::~OutputRelay() { Finish(); }

absl::Status OutputRelay::Open() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return absl::InternalError(absl::StrCat("cannot make a pipe: ", std::strerror(errno)));
  }
  read_end_ = ends[0];
  write_end_ = ends[1];
  abandoned_ = eventfd(0, EFD_CLOEXEC);
  if (abandoned_ < 0) {
    return absl::InternalError(absl::StrCat("cannot make an eventfd: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

void OutputRelay::Become() const { dup2(write_end_, descriptor_); }

void OutputRelay::Start() {
  close(write_end_);  // or the pipe would have no end
  write_end_ = -1;
  thread_ = std::thread(&OutputRelay::Copy, this);
}

void OutputRelay::Finish() {
  if (thread_.joinable()) thread_.join();
  for (int* end : {&read_end_, &write_end_, &abandoned_}) {
    if (*end >= 0) close(*end);
    *end = -1;
  }
}

void OutputRelay::Abandon() {
  if (abandoned_ >= 0) eventfd_write(abandoned_, 1);
}

void OutputRelay::Copy() {
  // A closed reader must be an error of write, not a signal. Only this thread would get the signal,
  // so it is blocked only here.
  sigset_t pipe_signal;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, nullptr);
  char buffer[1 << 16];
  while (true) {
    pollfd ready[] = {{read_end_, POLLIN, 0}, {abandoned_, POLLIN, 0}};
    if (poll(ready, 2, -1) < 0) continue;  // EINTR
    if (ready[0].revents == 0) break;
    const ssize_t count = read(read_end_, buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    if (filter_ == nullptr) {
      Pass(buffer, static_cast<size_t>(count));
    } else {
      const std::string shown = filter_->Feed({buffer, static_cast<size_t>(count)});
      Pass(shown.data(), shown.size());
    }
  }
  if (filter_ != nullptr) {
    const std::string rest = filter_->Finish();
    Pass(rest.data(), rest.size());
  }
}

void OutputRelay::Pass(const char* data, size_t size) {
  if (failed_ || WriteAll(descriptor_, data, size)) return;
  failed_ = true;
  kill(getpid(), SIGCHLD);
}

}  // namespace tandem::launcher
