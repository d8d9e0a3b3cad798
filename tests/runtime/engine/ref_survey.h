// Rows of logits as ranks with a part of the vocabulary each would survey them, by the scalar
// specification.
#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "kernels/ref/ref_sampling.h"

namespace tandem::engine {

class RefSurvey {
 public:
  // Rank r has the ids [cuts[r], cuts[r + 1]).
  RefSurvey(std::vector<int32_t> cuts, int32_t list_size)
      : cuts_(std::move(cuts)), list_size_(list_size), ranks_(cuts_.size() - 1) {}

  // logits is [rows, vocab].
  void Run(std::span<const float> logits, std::vector<kernels::SampleRequest> requests) {
    const int64_t rows = static_cast<int64_t>(requests.size());
    const int64_t vocab = cuts_.back();
    requests_ = std::move(requests);
    int32_t lists = 0;
    for (kernels::SampleRequest& request : requests_) request.list = lists++;
    std::vector<float> shared(ranks_.size() * rows * kernels::kWordFloats);
    for (size_t r = 0; r < ranks_.size(); ++r) {
      Rank& rank = ranks_[r];
      const int64_t width = cuts_[r + 1] - cuts_[r];
      rank.logits.clear();
      for (int64_t row = 0; row < rows; ++row) {
        const auto columns = logits.subspan(row * vocab + cuts_[r], width);
        rank.logits.insert(rank.logits.end(), columns.begin(), columns.end());
      }
      rank.surveys.assign(rows, {});
      rank.lists.assign(rows * list_size_, 0);
      rank.range_sums.assign(rows * kernels::kSampleRanges, 0);
      rank.share.assign(shared.size(), 0);
      rank.args = {.rows = rows,
                   .width = width,
                   .first_id = cuts_[r],
                   .logits = rank.logits.data(),
                   .requests = requests_.data(),
                   .list_size = list_size_,
                   .surveys = rank.surveys.data(),
                   .lists = rank.lists.data(),
                   .range_sums = rank.range_sums.data(),
                   .rank = static_cast<int32_t>(r),
                   .ranks = static_cast<int32_t>(ranks_.size()),
                   .sent = rank.share.data(),
                   .received = shared.data()};
    }
    const auto exchange = [&] {
      std::fill(shared.begin(), shared.end(), 0.0f);
      for (const Rank& rank : ranks_) {
        for (size_t i = 0; i < shared.size(); ++i) shared[i] += rank.share[i];
      }
    };
    for (const Rank& rank : ranks_) kernels::RefSampling().FindLargest(rank.args);
    exchange();
    for (const Rank& rank : ranks_) kernels::RefSampling().Survey(rank.args);
    exchange();
    for (const Rank& rank : ranks_) kernels::RefSampling().Draw(rank.args);
  }

  int32_t list_size() const { return list_size_; }

  // By rank; until the next call.
  std::span<const kernels::RankSurvey> Of(int64_t row) {
    of_row_.clear();
    for (const Rank& rank : ranks_) {
      const kernels::RowSurvey& survey = rank.surveys[row];
      of_row_.push_back(
          {&survey, std::span(rank.lists).subspan(row * list_size_, survey.candidates)});
    }
    return of_row_;
  }

 private:
  struct Rank {
    std::vector<float> logits, share;
    std::vector<kernels::RowSurvey> surveys;
    std::vector<uint64_t> lists, range_sums;
    kernels::SamplingArgs args;
  };

  const std::vector<int32_t> cuts_;
  const int32_t list_size_;
  std::vector<kernels::SampleRequest> requests_;
  std::vector<Rank> ranks_;
  std::vector<kernels::RankSurvey> of_row_;
};

}  // namespace tandem::engine
