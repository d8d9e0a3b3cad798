// What every communicator must do, checked by all its ranks at once against what one process
// computes alone.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "parallel/communicator.h"
#include "parallel/step_channel.h"

namespace tandem::parallel {

class CollectivesCheck {
 public:
  CollectivesCheck(Communicator& communicator, StepChannel* channel)
      : communicator_(communicator),
        channel_(channel),
        rank_(communicator.rank()),
        size_(communicator.size()) {}

  // What was wrong on this rank, a line each.
  std::vector<std::string> Run() {
    // Uneven leaves, and even ones, where all ranks hold whole subtrees.
    for (const int64_t leaves : {int64_t{43}, int64_t{16} * size_, int64_t{size_} - 1}) {
      AllReduces(leaves);
    }
    Gathers();
    Bytes();
    Expect(communicator_.control().Barrier().ok(), "barrier", 0);
    if (channel_ != nullptr && size_ > 1) Plans();
    return problems_;
  }

 private:
  void Expect(bool condition, const char* what, int64_t count) {
    if (condition || problems_.size() > 10) return;
    problems_.push_back(absl::StrCat("rank ", rank_, ": ", what, " differs for ", count));
  }

  void AllReduces(int64_t leaves) {
    std::vector<kernels::LeafRange> owned;
    for (int r = 0; r < size_; ++r) owned.push_back({leaves * r / size_, leaves * (r + 1) / size_});
    const auto layout = TreeLayout::Make(leaves, owned);
    const ReducePlan plan = communicator_.PlanReduce(layout);
    for (const int64_t count : {1, 7, 64, 4096, 8192, 8193, 40000}) {
      // Every rank knows all partial sums, sends its own and checks the root.
      std::mt19937 random(static_cast<uint32_t>(count));
      std::uniform_real_distribution<float> value(-1, 1);
      std::vector<float> nodes(layout.nodes.size() * count);
      for (float& v : nodes) v = value(random);
      std::vector<const float*> values;
      for (size_t i = 0; i < layout.nodes.size(); ++i) values.push_back(&nodes[i * count]);
      std::vector<float> expected(count), found(count);
      kernels::FinishTree({0, leaves}, layout.nodes, values, count, expected.data());
      const std::vector<float> mine(nodes.begin() + layout.rank_begin[rank_] * count,
                                    nodes.begin() + layout.rank_begin[rank_ + 1] * count);
      const absl::Status status = communicator_.AllReduce(plan, mine.data(), count, found.data());
      Expect(status.ok() && found == expected, "all-reduce", count);
    }
  }

  void Gathers() {
    std::vector<int64_t> widths;
    int64_t total = 0;
    for (int r = 0; r < size_; ++r) {
      widths.push_back(r == 1 ? 0 : 3000 + r);
      total += widths.back();
    }
    int64_t first = 0;
    for (int r = 0; r < rank_; ++r) first += widths[r];
    for (const int64_t rows : {1, 2, 5, 7}) {
      std::vector<float> mine(rows * widths[rank_] + 1), out(rows * total);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t c = 0; c < widths[rank_]; ++c) {
          mine[row * widths[rank_] + c] = static_cast<float>(row * 1000000 + first + c);
        }
      }
      Expect(communicator_.GatherColumns(mine.data(), rows, widths, out.data()).ok(), "gather",
             rows);
      for (int64_t row = 0; rank_ == 0 && row < rows; ++row) {
        for (int64_t c = 0; c < total; ++c) {
          Expect(out[row * total + c] == static_cast<float>(row * 1000000 + c), "gather", c);
        }
      }
    }
  }

  void Bytes() {
    const auto bytes =
        communicator_.control().AllGatherBytes(std::string(rank_, static_cast<char>('a' + rank_)));
    Expect(bytes.ok() && static_cast<int>(bytes->size()) == size_, "gathered bytes", size_);
    for (int r = 0; bytes.ok() && r < size_; ++r) {
      Expect((*bytes)[r] == std::string(r, static_cast<char>('a' + r)), "gathered bytes", r);
    }
  }

  void Plans() {
    for (int i = 1; i < 300; i = i < 20 ? i + 1 : i * 3) {
      const std::vector<std::byte> message(i < 20 ? i - 1 : i * 1000,
                                           static_cast<std::byte>(i % 251));
      if (rank_ == 0) {
        Expect(channel_->Send(message).ok(), "plan", i);
      } else {
        const auto got = channel_->Receive();
        Expect(got.ok() && std::vector<std::byte>(got->begin(), got->end()) == message, "plan", i);
      }
    }
  }

  Communicator& communicator_;
  StepChannel* channel_;
  const int rank_;
  const int size_;
  std::vector<std::string> problems_;
};

}  // namespace tandem::parallel
