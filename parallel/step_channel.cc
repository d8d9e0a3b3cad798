#include "parallel/step_channel.h"

#include <memory>

namespace tandem::parallel {

class ThreadChannelEnd : public StepChannel {
 public:
  ThreadChannelEnd(ThreadStepChannel* channel, int rank) : channel_(*channel), rank_(rank) {}

  absl::Status Send(std::span<const std::byte> message) override {
    std::unique_lock lock(channel_.mutex_);
    channel_.changed_.wait(lock, [&] {
      for (size_t r = 1; r < channel_.received_.size(); ++r) {
        if (channel_.received_[r] != channel_.sent_) return false;
      }
      return true;
    });
    channel_.message_.assign(message.begin(), message.end());
    ++channel_.sent_;
    channel_.changed_.notify_all();
    return absl::OkStatus();
  }

  absl::StatusOr<std::span<const std::byte>> Receive() override {
    std::unique_lock lock(channel_.mutex_);
    channel_.changed_.wait(lock, [&] { return channel_.sent_ > channel_.received_[rank_]; });
    message_ = channel_.message_;
    channel_.received_[rank_] = channel_.sent_;
    channel_.changed_.notify_all();
    return std::span<const std::byte>(message_);
  }

 private:
  ThreadStepChannel& channel_;
  const int rank_;
  std::vector<std::byte> message_;
};

std::unique_ptr<StepChannel> ThreadStepChannel::End(int rank) {
  return std::make_unique<ThreadChannelEnd>(this, rank);
}

}  // namespace tandem::parallel
